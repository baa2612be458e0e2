"""Nodes, clients and etcd members as network namespaces on one machine, with real faults and honest instruments.

    from leaseha.lab.lab import Lab

    with Lab(nodes=("node1", "node2"), settings={"session": {"ttl": "2s"}}) as lab:
        lab.start_nodes()                        # real agents; lab.nodes["node1"] is one
        lab.measure()                            # prober (1 ms), direct prober, ARP observer, netlink monitor
        lab.prober.wait_for_answer(by="node1")
        began = time.monotonic_ns()
        lab.nodes["node1"].kill()                # also: term freeze thaw kill_tree restart
        lab.prober.wait_for_answer(by="node2", after_ns=began)
        lab.settle()
        print(lab.prober.longest_gap_ms(began))  # what the client saw of the address; `lab.service` is the service's
        print(lab.two_answering(began))          # [] or when, and who

Hosts: `lab.host(name)` with `run`, `popen`, `call`, `socket`, `add_address`, `remove_address`, `carrier`, `ipv4`,
`ipv6`, `mac`. Nodes are 10.77.0.11 and on, etcd members .21 and on (10.78.0.0/24 with a network of its own),
clients .101 and on, the observer .250, extra hosts .1 and on; the VIP is 10.77.0.50. IPv6: fd77::11 and so on.

Faults: `host.cut_carrier()`, `host.cut_silent()`, `host.cut_one_way("in" | "out")`, `host.cut_from(other)`,
`lab.cut_etcd_side(name)`, `lab.partition(names, names)`, `lab.kill_host(name)`, `lab.boot_host(name)`, `host.heal()`,
`lab.heal()`. etcd: `lab.etcd.start|restart|stop|compact|leader|wait_leader|move_leader`, and each of
`lab.etcd.members` with `kill`, `stop`, `freeze`, `thaw`, `status`, `gateway`.

It needs namespaces: as root, or inside `python -m leaseha.lab.sandbox -- COMMAND`, which any account may run where
user namespaces are allowed. Tests are marked `netns`. All instants are CLOCK_MONOTONIC in ns.

What it cannot do: slow or lossy links, clocks that differ, a kernel that stops. `chaos.sim` has those.
"""
