//! Sans-I/O state machines of the PrexorCloud node-control protocol
