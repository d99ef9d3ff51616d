"""Hooks of schemathesis: what is refused although the document allows it, because no schema can say it."""

import json

import schemathesis


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Returns whether a failure is a fault of the daemon."""
    if response.status_code not in (400, 422):
        return True
    problem = json.loads(response.content)
    return not (is_of_no_event(problem) or is_beyond_schemas(problem, case.body))


def is_of_no_event(problem):
    """Which numbers events have depends on what has happened."""
    return problem.get("field") == "since" and "no event with this number" in problem["detail"]


def is_beyond_schemas(problem, body):
    """Whether this field of a registration follows its schema, and not the further rule of the daemon."""
    value = body.get(problem.get("field")) if isinstance(body, dict) else None
    # To JSON Schema 60.0 is an integer. The daemon takes digits only, because parsers disagree about others.
    if isinstance(value, float):
        return value.is_integer()
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if any(isinstance(part, float) and part.is_integer() for part in parts):
        return True
    texts = [part for part in parts if isinstance(part, str)]
    # Lengths are in bytes of UTF-8, and in the document in characters.
    is_long = any(len(text.encode()) > 64 for text in texts) and "longer" in problem["detail"]
    # Regular expressions of JSON Schema have no common form for characters beyond U+FFFF.
    is_invisible = any(max(text, default="") > "\uffff" for text in texts) and "invisible" in problem["detail"]
    return is_long or is_invisible
