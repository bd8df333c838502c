"""Replies with the number of messages that it was given."""

from perdure import Turn, bindufy


def handler(messages: list[dict[str, str]], turn: Turn) -> None:
    turn.reply(str(len(messages)))


bindufy({"name": "chatting", "direct_replies": True}, handler)
