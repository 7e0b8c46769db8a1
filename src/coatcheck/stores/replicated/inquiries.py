"""Questions to all peers about one session, and who has not answered yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Inquiry:
    """A question that is under way.

    Args:
        number: by which an answer names it.
        session_id: about which session.
        is_enough: whether what is known by now will do.
        act: called once, when it will do, or nobody is left who might still answer.

    Attributes:
        unanimous: whether every peer was asked and none failed to answer, so far. One alone never speaks for all.
        waiting: whose answer is outstanding.
    """

    __slots__ = ("_act", "_is_enough", "_over", "number", "session_id", "unanimous", "waiting")

    def __init__(self, number: int, session_id: str, is_enough: Callable[[], bool], act: Callable[[], None]) -> None:
        self.number = number
        self.session_id = session_id
        self.unanimous = True
        self.waiting: set[str] = set()
        self._is_enough = is_enough
        self._act = act
        self._over = False

    @property
    def answered_by_all(self) -> bool:
        """Whether every peer on the list has answered."""
        return self.unanimous and not self.waiting

    def look(self) -> None:
        """Something has changed."""
        if not self._over and (not self.waiting or self._is_enough()):
            self._over = True
            self._act()


class Inquiries:
    """All questions that are under way."""

    def __init__(self) -> None:
        self._number = 0
        self._open: dict[int, Inquiry] = {}

    def open(self, session_id: str, is_enough: Callable[[], bool], act: Callable[[], None]) -> Inquiry:
        """Begin with one; see `Inquiry`. It has to be closed."""
        self._number += 1
        inquiry = self._open[self._number] = Inquiry(self._number, session_id, is_enough, act)
        return inquiry

    def close(self, inquiry: Inquiry) -> None:
        """Whoever asked does not wait any more."""
        self._open.pop(inquiry.number, None)

    def answered(self, number: int, address: str) -> None:
        """This peer has said all that it knows."""
        inquiry = self._open.get(number)
        if inquiry is not None:
            inquiry.waiting.discard(address)
            inquiry.look()

    def lost(self, address: str) -> None:
        """What was under way to this peer, or from it, is lost."""
        for inquiry in list(self._open.values()):
            if address in inquiry.waiting:
                inquiry.waiting.remove(address)
                inquiry.unanimous = False
                inquiry.look()

    def heard_of(self, session_ids: Iterable[str]) -> None:
        """There are news of these sessions, from wherever."""
        if self._open:
            changed = set(session_ids)
            for inquiry in [each for each in self._open.values() if each.session_id in changed]:
                inquiry.look()

    def __len__(self) -> int:
        return len(self._open)
