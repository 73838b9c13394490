"""Payloads, the pairings that they are driven in, and what came of each"""

import dataclasses
import queue
import time

import contract
from conformance.pending import PENDING

# Payloads with these numbers and up are our additions, which a peer made from the seed contract does not know.
ADDITIONS = 100

PASSED, FAILED, IS_PENDING = "pass", "FAIL", "pending"


def payloads():
    """`(sender, name)` of each payload of the seed contract, in the order of the contract."""
    envelopes = (("daemon", contract.daemon.DaemonMessage), ("controller", contract.daemon.ControllerMessage))
    return [
        (sender, field.name)
        for sender, envelope in envelopes
        for field in envelope.DESCRIPTOR.oneofs_by_name["payload"].fields
        if field.number < ADDITIONS
    ]


@dataclasses.dataclass
class Cell:
    """What came of one payload in one pairing."""

    sender: str
    payload: str
    pairing: str
    state: str
    went_in: str
    came_out: str
    seconds: float = 0.0


def judged(cell, pending=PENDING):
    """The cell with what the list of pending ones makes of it: one that fails is excused, one that passes is not."""
    reason = pending.get((cell.sender, cell.payload), {}).get(cell.pairing)
    if reason is None:
        return cell
    if cell.state == PASSED:
        told = f"works, and is still in the list of pending ones: take it out of interop/conformance/pending.py ({reason})"
        return dataclasses.replace(cell, state=FAILED, came_out=told)
    return dataclasses.replace(cell, state=IS_PENDING, came_out=f"{reason} [{cell.came_out}]")


def short(error):
    """One line of what went wrong."""
    if isinstance(error, queue.Empty):
        return "nothing came in time"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."


def drive(pairing, sender, payload):
    """Drives one payload in a pairing that is set up."""
    began = time.monotonic()
    driver = getattr(pairing, f"{sender}_{payload}", None)
    try:
        if driver is None:
            raise AssertionError(f"nobody drives {payload}")
        went_in, came_out = driver()
        state = PASSED
    except Exception as error:  # whatever goes wrong in a driver is this payload's failure
        state, went_in, came_out = FAILED, (driver.__doc__ or "" if driver else "").strip(), short(error)
    cell = Cell(sender, payload, pairing.NAME, state, went_in, came_out, time.monotonic() - began)
    return judged(cell)


def column(pairing, wanted):
    """All of these payloads in one pairing; those that end it come last."""
    last = [payload for payload in wanted if payload in pairing.LAST]
    cells = {}
    try:
        pairing.set_up()
        for sender, payload in [*(one for one in wanted if one not in last), *last]:
            cells[sender, payload] = drive(pairing, sender, payload)
    except Exception as error:
        for sender, payload in wanted:
            failed = Cell(sender, payload, pairing.NAME, FAILED, "", f"the pairing: {short(error)}")
            cells.setdefault((sender, payload), failed)
    finally:
        pairing.tear_down()
    return [cells[one] for one in wanted]


def camel(name):
    return "".join(part.capitalize() for part in name.split("_"))


def rendered(cells, pairings):
    """What went in and came out, payload by payload, then all at a glance."""
    lines = []
    glance = []
    rows = dict.fromkeys((cell.sender, cell.payload) for cell in cells)
    width = max(map(len, pairings))
    for number, (sender, payload) in enumerate(rows, 1):
        lines.append(f"{number:>2} {camel(payload)} from the {sender}")
        states = []
        for pairing in pairings:
            [cell] = [cell for cell in cells if (cell.sender, cell.payload, cell.pairing) == (sender, payload, pairing)]
            lines.append(f"   {pairing:<{width}}  {cell.state:<7}  {cell.went_in} -> {cell.came_out}")
            states.append(f"{cell.state:<{len(pairing)}}")
        glance.append(f"{number:>2} {camel(payload):<20} {sender:<10}  {'  '.join(states)}".rstrip())
    lines += ["", f"   {'payload':<20} {'from':<10}  {'  '.join(pairings)}", *glance]
    return "\n".join(lines)
