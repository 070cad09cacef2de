"""What schemathesis must know beyond the description: how bytes that are no JSON are sent, and that a part of a document
is neither JSON nor decoded by itself.
"""

import schemathesis


@schemathesis.serializer("application/gzip", "application/octet-stream")
def as_bytes(_context, value):
    if isinstance(value, bytes):
        return {"data": value}
    return {"data": str(value).encode("utf-8", "surrogatepass")}


@schemathesis.hook
def before_call(_context, case, _kwargs):
    # Ranges are tried by tests of their own.
    for name in [name for name in case.headers or {} if name.lower() == "range"]:
        del case.headers[name]
