"""What schemathesis must know beyond the description: how bytes that are no JSON are sent."""

import schemathesis


@schemathesis.serializer("application/gzip", "application/octet-stream")
def as_bytes(_context, value):
    if isinstance(value, bytes):
        return {"data": value}
    return {"data": str(value).encode("utf-8", "surrogatepass")}
