"""leaseha and keepalived under the same faults, in the same lab, one run of each after the other.

    make bench                                                   # ten runs of everything, into docs/benchmarks/
    make bench BENCH="--runs 3 --scenarios kill-all,silent --ttl 300ms --renew-every 60ms --out /tmp/short"

`chaos.bench.__main__` has the options, `chaos.bench.scenarios` what is done to the nodes, `chaos.bench.trial` what is
measured and when. Every run has a lab of its own (nodes, etcd, client, observers; a tenth of a second), so that no
run inherits anything from another, and every system finds the same one.
"""
