"""The command line itself: what it takes, and in which words it refuses."""

import pytest

from leaseha import __version__
from leaseha.cli import EXIT_OK, EXIT_USAGE, main


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("status", "--jason"), "leaseha: unrecognized arguments: --jason (see `leaseha --help`)"),
        (
            ("history", "-n", "x"),
            "leaseha: history: argument -n: invalid int value: 'x' (see `leaseha history --help`)",
        ),
        (
            ("run", "--config", ""),
            "leaseha: run: argument --config: names no file (see `leaseha run --help`)",
        ),
        (
            ("status", "--config="),
            "leaseha: status: argument --config: names no file (see `leaseha status --help`)",
        ),
        (
            ("fsm", "--json", "--mermaid"),
            "leaseha: fsm: --json and --mermaid are two forms of one answer: ask for one of them",
        ),
    ],
)
def test_a_refusal_is_one_line_that_begins_with_the_programs_name_once(capsys, arguments, complaint):
    assert main(arguments) == EXIT_USAGE

    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"{complaint}\n")


def test_the_version_is_an_option_too_as_people_expect(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == EXIT_OK
    assert capsys.readouterr().out == f"leaseha {__version__}\n"


@pytest.mark.parametrize("form", [[], ["--json"], ["--mermaid"]])
def test_each_form_of_the_transition_table_can_be_asked_for_alone(capsys, form):
    assert main(["fsm", *form]) == EXIT_OK
    assert capsys.readouterr().out
