"""One end of a Connect stream with deadlines on everything that waits."""

import queue
import threading
import time

import contract
import grpc

DEADLINE = 15.0


class StreamEnded(Exception):
    """The peer ended the stream; `code` and `details` are the status it gave."""

    def __init__(self, code, details):
        super().__init__(f"{code}: {details}")
        self.code = code
        self.details = details


class Conversation:
    """Sends from a queue and collects what arrives, so that a test reads like a dialogue."""

    _END = object()

    def __init__(self):
        self.outgoing = queue.Queue()
        self.incoming = queue.Queue()

    def send(self, message):
        self.outgoing.put(message)

    def requests(self):
        while (message := self.outgoing.get()) is not self._END:
            yield message

    def finish(self):
        self.outgoing.put(self._END)

    def _next(self, until):
        """The next message; `until` bounds the whole wait, however much else arrives meanwhile."""
        message = self.incoming.get(timeout=max(0.0, until - time.monotonic()))
        if isinstance(message, Exception):
            # Nothing comes after the end, and whoever waits next is to hear of it at once.
            self.incoming.put(message)
        return message

    def expect(self, kind, where=lambda message: True, deadline=DEADLINE):
        """The next message of this kind that fits; others are passed over."""
        passed = []
        until = time.monotonic() + deadline
        while True:
            try:
                message = self._next(until)
            except queue.Empty:
                raise AssertionError(f"no {kind} within {deadline} s; passed over: {passed}") from None
            if isinstance(message, Exception):
                raise message
            found = message.WhichOneof("payload")
            payload = getattr(message, found) if found else None
            if found == kind and where(payload):
                return payload
            passed.append(f"{found} {payload}".strip()[:300])

    def expect_each(self, *wanted):
        """One message for each `(kind, where)`, in whatever order they come; others are passed over."""
        missing = list(wanted)

        def is_wanted(message):
            found = message.WhichOneof("payload")
            for kind, where in missing:
                if found == kind and where(getattr(message, found)):
                    missing.remove((kind, where))
                    return True
            return False

        until = time.monotonic() + DEADLINE
        while missing:
            try:
                message = self._next(until)
            except queue.Empty:
                raise AssertionError(f"still missing after {DEADLINE} s: {[kind for kind, _ in missing]}") from None
            if isinstance(message, Exception):
                raise message
            is_wanted(message)

    def expect_end(self, deadline=DEADLINE):
        """Waits for the end of the stream; gives the status."""
        until = time.monotonic() + deadline
        while True:
            try:
                message = self._next(until)
            except queue.Empty:
                raise AssertionError(f"the stream did not end within {deadline} s") from None
            if isinstance(message, Exception):
                return message


class DaemonSide(Conversation):
    """A daemon's stream to a controller."""

    def __init__(self, channel, answers_pings=False):
        super().__init__()
        self.answers_pings = answers_pings
        method = channel.stream_stream(
            contract.CONNECT,
            request_serializer=contract.encode,
            response_deserializer=contract.daemon.ControllerMessage.FromString,
        )
        self.call = method(self.requests())
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for message in self.call:
                if self.answers_pings and message.WhichOneof("payload") == "ping":
                    self.tell(pong=contract.daemon.Pong(sequence=message.ping.sequence))
                else:
                    self.incoming.put(message)
            self.incoming.put(StreamEnded(self.call.code(), self.call.details()))
        except grpc.RpcError:
            self.incoming.put(StreamEnded(self.call.code(), self.call.details()))

    def await_acceptance(self):
        """Returns once the controller has accepted the stream, which it shows by its headers."""
        self.call.initial_metadata()

    def tell(self, **payload):
        self.send(contract.daemon.DaemonMessage(**payload))

    def close(self):
        self.finish()
        self.call.cancel()


class ControllerSide(Conversation):
    """A controller's end of one daemon's stream."""

    def serve(self, request_iterator, context):
        def read():
            try:
                for message in request_iterator:
                    self.incoming.put(message)
                self.incoming.put(StreamEnded(grpc.StatusCode.OK, "half-closed"))
                self.finish()
            except Exception as error:  # grpc raises a bare Exception when the peer is gone
                self.incoming.put(StreamEnded(grpc.StatusCode.CANCELLED, str(error)))

        threading.Thread(target=read, daemon=True).start()
        context.add_callback(self.finish)
        yield from self.requests()

    def tell(self, **payload):
        self.send(contract.daemon.ControllerMessage(**payload))
