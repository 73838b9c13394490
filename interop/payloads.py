"""Drives every payload of the seed contract in every pairing, prints the table, and fails if one row fails."""

import argparse
import dataclasses
import json
import sys
import time

from conformance import pending, table


def pairings():
    from conformance.foreign_controller import JavaController, PythonController
    from conformance.foreign_daemon import JavaDaemon, PythonDaemon
    from conformance.own import Own

    return [Own(), PythonDaemon(), PythonController(), JavaDaemon(), JavaController()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--payload", action="append", help="only this payload, as the .proto file names it")
    parser.add_argument("--pairing", action="append", choices=pending.PAIRINGS, help="only this pairing")
    arguments = parser.parse_args()
    wanted = [one for one in table.payloads() if not arguments.payload or one[1] in arguments.payload]
    if not wanted:
        parser.error("there is no such payload")
    chosen = [pairing for pairing in pairings() if not arguments.pairing or pairing.NAME in arguments.pairing]
    cells = []
    for pairing in chosen:
        began = time.monotonic()
        cells += table.column(pairing, wanted)
        print(f"{pairing.NAME}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    counts = {state: sum(cell.state == state for cell in cells) for state in (table.PASSED, table.FAILED, table.IS_PENDING)}
    if arguments.json:
        print(json.dumps({"counts": counts, "cells": [dataclasses.asdict(cell) for cell in cells]}))
    else:
        print(table.rendered(cells, [pairing.NAME for pairing in chosen]))
        print(f"\n{counts[table.IS_PENDING]} pending: they do not work yet, and interop/conformance/pending.py says why")
        print(f"payloads: {counts[table.PASSED]} passed, {counts[table.FAILED]} failed")
    return 1 if counts[table.FAILED] else 0


if __name__ == "__main__":
    sys.exit(main())
