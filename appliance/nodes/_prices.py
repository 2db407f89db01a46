"""What cloud models cost, by the list that genai-prices brings; run in a child, for the list takes much memory."""

from __future__ import annotations

from typing import Any

#: Lengths of a prompt, in tokens, between which some provider changes its price.
_LENGTHS = (0, 32_001, 128_001, 200_001, 256_001, 272_001, 512_001)
_MILLION = 1_000_000


def table(arguments: dict[str, str]) -> dict[str, Any] | None:
    """US dollars a million tokens: ``{"tiers": [{prompt, input, cached, output}]}``; None for a model not listed.

    ``arguments``: the API's ``url`` and the ``model``.
    """
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None

    def price(**tokens: int) -> float:
        usage = Usage(**tokens)
        return float(calc_price(usage, arguments["model"], provider_api_url=arguments["url"]).total_price)

    tiers: list[dict[str, Any]] = []
    try:
        for length in _LENGTHS:
            # A price is for the whole prompt by its length: so the length is in each question.
            size = max(length, 1000)
            plain = price(input_tokens=size)
            tier = {
                "input": plain / size * _MILLION,
                "cached": price(input_tokens=size, cache_read_tokens=size) / size * _MILLION,
                "output": (price(input_tokens=size, output_tokens=_MILLION) - plain),
            }
            tier = {name: round(value, 9) for name, value in tier.items()}
            if not tiers or tier != {name: tiers[-1][name] for name in tier}:
                tiers.append({"prompt": length, **tier})
    except LookupError:
        return None
    return {"tiers": tiers}
