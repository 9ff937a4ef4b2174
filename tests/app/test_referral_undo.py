"""An undo through a referral: from invitation to reward over several customers, with no cause but what the library records itself."""

from __future__ import annotations

import pytest

from postsale.access import Person
from postsale.agents.budget import Page
from postsale.aggregates.identity import ExternalId
from postsale.audit import check_dispositions
from postsale.errors import UndoRefused
from tests.app.referred import WAIT, Program, inviter, rewarder, welcomer
from tests.app.support import ANNA, Where

BEN = Person("ben", "token")


def told(p: Program) -> None:
    """An advocate invites, a friend comes and is welcomed, buys, and the advocate is rewarded; a stranger is invited beside it."""
    p.promoter("advocate")
    p.promoter("stranger")
    p.run()
    invitation = p.effect("advocate", "inviter")
    p.invited(invitation)
    p.accepted(invitation, "friend", "advocate")
    p.run()
    p.converted(invitation)
    p.run()


def test_the_whole_tree_of_a_referral_over_its_customers_is_listed_approved_and_taken_back_once(where: Where) -> None:
    p = Program(where, inviter(), welcomer(), rewarder())
    with p.ps:
        told(p)
        invite, reward = p.acme.decisions("advocate")
        (welcome,) = p.acme.decisions("friend")
        assert [(e.agent, e.recorded.depth) for e in (invite, reward, welcome)] == [("inviter", 0), ("reward", 1), ("welcome", 1)]
        assert (p.called("acme.invite"), p.called("acme.credit")) == (2, 2)

        plan = p.acme.undos.plan(decision=invite.id)
        assert [(i.decision, i.parent, i.what) for i in plan.items] == [
            (reward.id, invite.id, "undo"),
            (welcome.id, invite.id, "undo"),
            (invite.id, None, "undo"),
        ]
        assert {i.customer for i in plan.items} == {p.acme.customer(c).ref for c in ("advocate", "friend")}
        (other,) = p.acme.decisions("stranger")
        by_policy = p.acme.undos.plan(policy=invite.recorded.policy)
        assert {i.decision for i in by_policy.items} == {invite.id, reward.id, welcome.id, other.id}
        tree = p.acme.undos.tree(plan)
        assert "caused by it: reward did reward for advocate" in tree
        assert "caused by it: welcome did welcome for friend" in tree

        undo, shown = p.acme.undos.propose(decision=invite.id, by=ANNA)
        with pytest.raises(UndoRefused, match="nobody approved"):
            p.acme.undos.run(undo.id)
        p.acme.undos.approve(undo.id, reason="the program was misconfigured", by=BEN, digest=shown.digest)
        assert {e.status for e in p.acme.undos.run(undo.id).items} == {"undone"}
        assert (p.called("acme.uninvite"), p.called("acme.uncredit")) == (1, 2)
        assert p.ps.engine.desk.budget("acme", "referrals").left(100_000, Page("EUR", "2026")) == 100_000

        at = p.ps.log.store.head()
        assert p.acme.undos.run(undo.id).state.status == "finished"
        assert (p.ps.log.store.head(), p.called("acme.uninvite"), p.called("acme.uncredit")) == (at, 1, 2)
        assert p.acme.undos.plan(decision=invite.id).items == ()
        p.run()
        assert check_dispositions(p.ps.log.store).ok
        assert "acme.credit@1 → succeeded, taken back" in str(p.acme.explain(welcome.id))


def test_a_friend_known_by_another_systems_id_and_linked_only_later_is_part_of_the_tree() -> None:
    p = Program(None, inviter(), welcomer(), rewarder())
    with p.ps:
        p.promoter("advocate")
        p.run()
        invitation, theirs = p.effect("advocate", "inviter"), ExternalId("customer", "program", "77")
        p.accepted(invitation, theirs, "advocate")
        p.run()
        assert len(p.acme.decisions()) == 1, "nobody knows yet who came"
        p.used("friend")
        p.run()
        assert p.acme.link(theirs, "friend")
        p.run()
        (welcome,) = p.acme.decisions("friend")
        (invite,) = p.acme.decisions("advocate")
        assert welcome.recorded.depth == 1
        assert [i.decision for i in p.acme.undos.plan(decision=invite.id).items] == [welcome.id, invite.id]
        assert check_dispositions(p.ps.log.store).ok


def test_what_a_wait_after_an_effect_brought_is_part_of_the_tree_and_one_deeper() -> None:
    p = Program(None, inviter(), welcomer(WAIT), rewarder())
    with p.ps:
        p.promoter("advocate")
        p.run()
        p.accepted(p.effect("advocate", "inviter"), "friend", "advocate")
        p.run()
        p.run(days=7)
        welcome, again = p.acme.decisions("friend")
        assert (again.recorded.condition, again.recorded.depth) == ("credit-unused", 2)
        (invite,) = p.acme.decisions("advocate")
        parents = {i.decision: i.parent for i in p.acme.undos.plan(decision=invite.id).items}
        assert parents == {again.id: welcome.id, welcome.id: invite.id, invite.id: None}
        assert check_dispositions(p.ps.log.store).ok


def test_what_comes_back_about_another_customer_again_changes_nothing_and_creates_nobody_twice(where: Where) -> None:
    p = Program(where, inviter())
    with p.ps:
        p.promoter("advocate")
        p.run()
        from postsale.aggregates.signals import ReferralAccepted

        effect, said = p.effect("advocate", "inviter"), ReferralAccepted(**p.said(), referral_id="r1", referrer="advocate")
        first = p.acme.returned(effect, said, customer="friend")
        again = p.acme.returned(str(effect), said, customer="friend")
        assert (first.stored, again.stored, again.position) == (True, False, first.position)
        (fact,) = p.acme.timeline("friend")
        assert (fact.header.depth, fact.header.causation_id is not None) == (1, True)
