"""Policies: who has to pass which guards, in one place, and a stricter rule that is tried out before it counts."""

from keyguard import APIKeys, Concurrency, Identity, IPFilter, Keyguard, RateLimit
from keyguard.policies import Policy, all_of, first_match, header, ip, method, path, plan, scope, time

CUSTOMERS = {
    "s3cret-of-ada": Identity("ada", plan="free", scopes=frozenset({"read"})),
    "s3cret-of-bob": Identity("bob", plan="pro", scopes=frozenset({"read", "write"})),
}

writes = method("POST", "PUT", "PATCH", "DELETE")
nightly = path("/exports/*") & ~time("22:00-06:00", tz="Europe/Berlin")

guard = Keyguard(
    Policy("admin", when=path("/admin/*"), then=[IPFilter(allow=["10.0.0.0/8"])]),
    APIKeys(lookup=CUSTOMERS.get, public=["/health"]),
    first_match(  # the first one that is about a request is the only one
        Policy("office", when=ip("10.0.0.0/8") | path("/health"), then=[]),
        Policy("writes", when=writes & ~scope("bulk"), then=[RateLimit("2/minute", by="key", name="writes")]),
        Policy("free", when=plan("free"), then=[RateLimit("100/hour", by="subject", name="free")]),
        Policy("paid", then=[RateLimit("50/second", by="subject", name="paid")]),
    ),
    all_of(  # all that are about a request, in this order
        Policy("exports by day", when=nightly, then=[Concurrency(1, by="key", name="exports")]),
        Policy("one tenant", when=header("x-tenant", "acme"), then=[RateLimit("5/second", name="acme")]),
        # What would it refuse? The log, `on_refusal` and `guard.shadows` tell; nobody is refused.
        Policy("stricter", when=~plan("pro"), then=[RateLimit("1/minute", by="subject", name="tight")], shadow=True),
    ),
    store="memory://",
    overrides=True,  # guard.overrides.set("ada", {"free": "1000/hour"}, expires="2 days")
)

if __name__ == "__main__":
    print(guard.describe())
