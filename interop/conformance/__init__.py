"""Every payload of the seed contract, driven end to end in every pairing of peers, as a table that a machine prints.

A pairing is a class with one method a payload, `daemon_NAME` or `controller_NAME` after whoever sends it. It makes the payload
happen the way an operator, a server or a disk does, looks at what came of it at the other end, and says both in words; an
exception is a failure. The names come from the descriptors, so a payload without a method is a failure too.
"""
