"""Content types that schemathesis does not know."""

import schemathesis

schemathesis.serializer.alias("application/x-pem-file", "text/plain")
