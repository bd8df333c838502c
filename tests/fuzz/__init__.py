"""Bad requests by the thousand, made by schemathesis from the served OpenAPI document and by hypothesis from JSON-RPC."""
