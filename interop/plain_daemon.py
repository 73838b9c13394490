"""A daemon that announces nothing and does what the Java daemon was seen to do."""

import contract
from stream import DaemonSide

daemon = contract.daemon
STATE = daemon.InstanceState.Value


class PlainDaemon:
    """Speaks as a script tells it to; what it runs survives `kill`, and it does not know it afterwards."""

    def __init__(self, node_id, channel, memory_mb=4096):
        self.node_id, self.channel, self.memory_mb = node_id, channel, memory_mb
        self.servers = {}
        self.stream = None

    def connect(self, listed=None):
        listed = list(self.servers.values()) if listed is None else listed
        self.stream = DaemonSide(self.channel, answers_pings=True)
        self.stream.tell(
            handshake=daemon.Handshake(
                node_id=self.node_id,
                version="plain-1.0",
                protocol_version=1,
                total_memory_mb=self.memory_mb,
                running_instances=listed,
            )
        )
        return self.stream.expect("handshake_ack")

    def disconnect(self):
        self.stream.close()

    def kill(self):
        """`kill -9`: what ran runs on, and the next daemon has no idea of it."""
        self.disconnect()
        self.servers.clear()

    def listing(self, instance_id, group, port, state="STARTING"):
        return daemon.RunningInstance(instance_id=instance_id, group=group, port=port, state=STATE(state))

    def report(self, instance_id, state, port=0):
        self.stream.tell(
            instance_status=daemon.InstanceStatusUpdate(instance_id=instance_id, state=STATE(state), port=port)
        )

    def figures(self, ports=None, total_memory_mb=65536):
        ports = [server.port for server in self.servers.values()] if ports is None else ports
        self.stream.tell(
            node_status=daemon.NodeStatus(
                cpu_usage=0.1,
                total_memory_mb=total_memory_mb,
                used_memory_mb=10,
                instance_count=len(ports),
                used_ports=ports,
            )
        )

    def take_start(self, instance_id):
        """The next start of this instance, and nothing done about it yet."""
        return self.stream.expect("start_instance", lambda start: start.instance_id == instance_id)

    def launch(self, start):
        """It says nothing while it prepares, and everything at once just before it spawns."""
        self.servers[start.instance_id] = self.listing(start.instance_id, start.group, start.port)
        for state in ("PREPARING", "STARTING"):
            self.report(start.instance_id, state, start.port)
        self.stream.tell(start_instance_ack=daemon.StartInstanceAck(instance_id=start.instance_id, accepted=True))

    def take_stop(self, instance_id, force=None):
        fits = lambda stop: stop.instance_id == instance_id and force in (None, stop.force)
        return self.stream.expect("stop_instance", fits, deadline=40.0)

    def end(self, instance_id):
        """The process is gone: its last state, and only then the answer to the stop."""
        server = self.servers.pop(instance_id)
        self.report(instance_id, "STOPPED", server.port)
        self.acknowledge_stop(instance_id)

    def acknowledge_stop(self, instance_id):
        """Also of an instance that it does not know."""
        self.stream.tell(stop_instance_ack=daemon.StopInstanceAck(instance_id=instance_id, accepted=True))

    def kinds_before(self, last):
        """What arrives up to and with a message of this kind."""
        kinds = []
        while not kinds or kinds[-1] != last:
            message = self.stream.incoming.get(timeout=15)
            if isinstance(message, Exception):
                raise message
            kinds.append(message.WhichOneof("payload"))
        return kinds
