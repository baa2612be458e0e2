"""The suites are no test modules by their names: their asserts are to speak all the same."""

import pytest

pytest.register_assert_rewrite(
    "tests.contract.etcd_contract", "tests.contract.etcd_subject", "tests.contract.etcd_watch_contract"
)
