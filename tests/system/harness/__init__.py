"""What the system tests share: processes, metrics, raw HTTP/2 and gRPC clients."""
