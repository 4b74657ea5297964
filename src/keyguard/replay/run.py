"""."""


class Refusals: ...


class Replay: ...


def replay(): ...
