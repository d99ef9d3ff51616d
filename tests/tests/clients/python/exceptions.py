"""Hooks of schemathesis: what is refused although the document allows it, because no schema can say it."""

import json

import schemathesis


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Returns whether it is a fault of the daemon that it has refused a registration."""
    if response.status_code != 422 or not isinstance(case.body, dict):
        return True
    problem = json.loads(response.content)
    value = case.body.get(problem.get("field"))
    # To JSON Schema 60.0 is an integer. The daemon takes digits only, because parsers disagree about others.
    is_written_otherwise = isinstance(value, float) and value.is_integer()
    texts = value if isinstance(value, list) else [value]
    texts = [text for text in texts if isinstance(text, str)]
    # Lengths are in bytes of UTF-8, and in the document in characters.
    is_long = any(len(text.encode()) > 64 for text in texts) and "longer" in problem["detail"]
    # Regular expressions of JSON Schema have no common form for these.
    is_invisible = any(character > "\uffff" for text in texts for character in text) and "invisible" in problem["detail"]
    return not (is_written_otherwise or is_long or is_invisible)
