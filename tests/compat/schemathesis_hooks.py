"""What schemathesis has to be told about our types."""

import schemathesis

schemathesis.serializer.alias("application/x-pem-file", "text/plain")
