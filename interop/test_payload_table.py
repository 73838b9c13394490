"""The table of payloads forgets nothing, and its list of pending ones is kept true."""

import unittest

from conformance import table
from conformance.foreign_controller import JavaController, PythonController
from conformance.foreign_daemon import JavaDaemon, PythonDaemon
from conformance.own import Own
from conformance.pending import PAIRINGS, PENDING

PENDING_HERE = {("daemon", "pong"): {"a pairing": "not yet"}}


class Fake:
    NAME = "a pairing"
    LAST = {("daemon", "handshake")}

    def __init__(self):
        self.driven = []

    def set_up(self):
        pass

    def tear_down(self):
        self.driven.append("tear down")

    def daemon_handshake(self):
        self.driven.append("handshake")
        return "in", "out"

    def daemon_pong(self):
        """what goes in"""
        self.driven.append("pong")
        raise AssertionError("nothing\ncomes out")


class PayloadTable(unittest.TestCase):
    def cell(self, state):
        return table.Cell("daemon", "pong", "a pairing", state, "in", "out")

    def test_the_contract_of_the_seed_has_18_and_16_payloads(self):
        senders = [sender for sender, _ in table.payloads()]
        self.assertEqual((senders.count("daemon"), senders.count("controller")), (18, 16))

    def test_every_payload_is_driven_in_every_pairing(self):
        pairings = (Own, PythonDaemon, PythonController, JavaDaemon, JavaController)
        self.assertEqual([pairing.NAME for pairing in pairings], list(PAIRINGS))
        for pairing in pairings:
            for sender, payload in table.payloads():
                self.assertTrue(callable(getattr(pairing, f"{sender}_{payload}", None)), (pairing, sender, payload))

    def test_only_payloads_of_the_contract_are_pending(self):
        self.assertEqual(set(PENDING) - set(table.payloads()), set())
        for pairings in PENDING.values():
            self.assertEqual(set(pairings) - set(PAIRINGS), set())

    def test_a_pending_payload_may_fail_and_may_not_work(self):
        self.assertEqual(table.judged(self.cell(table.FAILED), PENDING_HERE).state, table.IS_PENDING)
        works = table.judged(self.cell(table.PASSED), PENDING_HERE)
        self.assertEqual(works.state, table.FAILED)
        self.assertIn("pending.py", works.came_out)
        self.assertEqual(table.judged(self.cell(table.FAILED), {}).state, table.FAILED)

    def test_a_failure_is_a_row_and_what_ends_a_pairing_comes_last(self):
        pairing = Fake()
        wanted = [("daemon", "handshake"), ("daemon", "pong"), ("daemon", "forgotten")]
        handshake, pong, forgotten = table.column(pairing, wanted)
        self.assertEqual(pairing.driven, ["pong", "handshake", "tear down"])
        self.assertEqual((handshake.state, handshake.went_in, handshake.came_out), (table.PASSED, "in", "out"))
        self.assertEqual((pong.state, pong.came_out), (table.FAILED, "AssertionError: nothing comes out"))
        self.assertEqual((forgotten.state, forgotten.came_out), (table.FAILED, "AssertionError: nobody drives forgotten"))


if __name__ == "__main__":
    unittest.main()
