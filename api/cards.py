"""Both cards of an agent as they are served: what is declared in them, and who signed them."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from perdure.agent import Agent
from perdure.cards.signatures import CardKey, signed
from perdure.errors import ConfigError
from perdure.telling import Json

from . import card, extensions, jsonrpc


@dataclass(frozen=True, slots=True)
class Cards:
    """The public card, and the one for callers who have identified themselves."""

    public: Json
    extended: card.ExtendedCard
    extensions: extensions.Extensions
    """What requests are held to, since the cards say so."""


def cards_of(agent: Agent, key: CardKey | None, also: card.AsTenant | None = None) -> Cards:
    """The cards of an agent, signed where there is a key. ConfigError for one that is no JSON or that cannot be signed."""
    own = extensions.ours(name for name, method in jsonrpc.METHODS.items() if method.dialect is None)
    declared = extensions.declared(agent, own)
    extended = card.extended_card(agent, declared, also)
    if extended.document is not None:
        extended = extended.with_document(_finished(extended.document, key))
    return Cards(
        public=_finished(card.card_json(agent, declared, also=also), key),
        extended=extended,
        extensions=extensions.negotiated(agent, own),
    )


def _finished(document: Json, key: CardKey | None) -> Json:
    """Signed as it is read: with JSON's own types, whatever an author's config is made of."""
    try:
        plain: Json = orjson.loads(orjson.dumps(document))
    except TypeError as error:
        raise ConfigError(f"the agent's card is no JSON: {error}") from None
    return signed(plain, key)
