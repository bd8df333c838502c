"""Does what its first word says, and repeats the rest of what it was told in it."""

from perdure import AgentError, InputRequired, Rejected, Retry, Turn, bindufy


def handler(messages: list[dict[str, str]], turn: Turn) -> str:
    said = messages[-1]["content"].splitlines()[0]
    verb, _, rest = said.partition(" ")
    turn.progress(0.5, rest)
    match verb:
        case "fail":
            raise ValueError(rest)
        case "retry" if turn.attempt < 3:
            raise Retry(0, rest) if turn.attempt == 1 else ConnectionError(rest)
        case "reject":
            raise Rejected(rest)
        case "give-up":
            raise AgentError(rest)
        case "ask":
            raise InputRequired(rest)
        case "unstorable":
            return {rest: object()}  # type: ignore[return-value]
    return rest


bindufy({"name": "leaky", "capabilities": {"push_notifications": True}}, handler)
