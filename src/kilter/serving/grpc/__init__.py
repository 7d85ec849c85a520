"""The endpoints over gRPC: the Open Inference Protocol, TensorFlow Serving's services, and the standard health check.

Messages enter on a port of their own and leave as answers of the very endpoints that HTTP asks: same admission, same log.
Guarantees: nothing blocks the front's event loop, every queue is bounded, a drain loses no call, and no message class is
registered in protobuf's default pool, so that any client library can live in the same process.
"""
