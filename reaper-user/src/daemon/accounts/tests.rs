//! The shares after any order of charges and returns, and the reserves.

use proptest::prelude::*;

use super::*;

const OWNER: u32 = 1_000;
const ROOT: u32 = 0;
/// An ordinary user.
const USER: u32 = 2_001;

fn accounts(newcomers: Newcomers, total: usize, reserve: usize) -> Arc<Accounts> {
    let limit = Limit {
        total,
        reserve,
        per_user: None,
    };
    Accounts::new(OWNER, newcomers, [limit; 3])
}

/// Charges until a refusal.
fn take_all(accounts: &Arc<Accounts>, uid: u32) -> Vec<Charge> {
    std::iter::from_fn(|| accounts.try_charge(uid, Resource::Streams).ok()).collect()
}

#[test]
fn a_lone_user_gets_three_quarters_of_what_is_not_reserved() {
    let accounts = accounts(Newcomers::Possible, 1_016, 8);
    let usage = accounts.usage(USER, Resource::Streams);
    assert_eq!((usage.used, usage.limit), (0, 750));
    let held = take_all(&accounts, USER);
    assert_eq!(held.len(), 750);
    let refused = accounts.try_charge(USER, Resource::Streams).unwrap_err();
    assert_eq!((refused.used, refused.limit), (750, 750));
}

/// The pools as a sum over all users.
fn pools_of(accounts: &Accounts) -> Vec<(usize, usize)> {
    let books = accounts.books();
    let pool = |resource: Resource| {
        let beyond = books.users.iter().map(|(uid, account)| {
            account[resource as usize].saturating_sub(accounts.reserve(&books, *uid, resource))
        });
        let beyond: Vec<_> = beyond.filter(|shared| *shared > 0).collect();
        (beyond.iter().sum(), beyond.len())
    };
    Resource::ALL.map(pool).to_vec()
}

#[test]
fn changed_limits_keep_what_is_held_and_the_books_stay_right() {
    let accounts = accounts(Newcomers::Possible, 100, 8);
    let mut held = take_all(&accounts, USER);
    held.extend(take_all(&accounts, OWNER));
    held.extend(take_all(&accounts, ROOT));
    for (total, reserve, newcomers) in [
        (20, 1, Newcomers::None),
        (400, 20, Newcomers::Possible),
        (8, 1, Newcomers::Possible),
        (100, 8, Newcomers::Possible),
    ] {
        let limit = Limit {
            total,
            reserve,
            per_user: None,
        };
        let used = accounts.usage(USER, Resource::Streams).used;
        accounts.set_limits(newcomers, [limit; 3]);
        assert_eq!(accounts.usage(USER, Resource::Streams).used, used);
        for _ in 0..5 {
            held.pop();
            held.swap_remove(0);
            held.extend(accounts.try_charge(OWNER, Resource::Streams));
            let books = accounts.books();
            let pools = books.pools.map(|pool| (pool.used, pool.users));
            drop(books);
            assert_eq!(pools.to_vec(), pools_of(&accounts), "{total} {reserve}");
        }
    }
    drop(held);
    assert_eq!(pools_of(&accounts), [(0, 0); 3]);
    assert!(
        accounts
            .books()
            .pools
            .iter()
            .all(|pool| pool.used == 0 && pool.users == 0)
    );
}

#[test]
fn where_no_other_user_can_come_the_owner_gets_all_but_the_reserve_of_root() {
    let accounts = accounts(Newcomers::None, 100, 8);
    let owned = take_all(&accounts, OWNER);
    assert_eq!(owned.len(), 92);
    assert_eq!(take_all(&accounts, ROOT).len(), 8);
}

#[test]
fn root_and_the_owner_hold_nothing_of_the_pool_until_their_reserve_is_used() {
    let accounts = accounts(Newcomers::Possible, 116, 8);
    let before = accounts.usage(USER, Resource::Streams).limit;
    let _root: Vec<_> = (0..8)
        .map(|_| accounts.try_charge(ROOT, Resource::Streams).unwrap())
        .collect();
    assert_eq!(accounts.usage(USER, Resource::Streams).limit, before);
    let _more = accounts.try_charge(ROOT, Resource::Streams).unwrap();
    assert!(accounts.usage(USER, Resource::Streams).limit < before);
}

#[test]
fn a_second_user_gets_its_guarantee_and_the_first_keeps_its_grants() {
    let accounts = accounts(Newcomers::Possible, 1_016, 8);
    let first = take_all(&accounts, USER);
    let second = take_all(&accounts, USER + 1);
    assert!(
        second.len() >= share::guaranteed(1_000, 2),
        "{}",
        second.len()
    );
    assert_eq!(accounts.usage(USER, Resource::Streams).used, first.len());
    drop(first);
    let third = take_all(&accounts, USER + 2);
    assert!(
        third.len() > second.len(),
        "what is given back can be taken"
    );
}

/// Users take sessions one after the other, each until it is refused, within this limit for one user.
fn fill(total: usize, per_user: usize, uids: &[u32]) -> Vec<(u32, usize)> {
    let share = of_registry(OWNER, || Newcomers::Possible);
    let mut held: Vec<(u32, usize)> = Vec::new();
    for owner in uids.iter().copied() {
        let claim = reaper_registry::Claim {
            owner,
            total,
            others: &held,
        };
        held.push((owner, share(&claim).min(per_user)));
    }
    held
}

#[test]
fn many_users_who_take_all_they_can_leave_sessions_to_each_other_to_root_and_to_the_owner() {
    let uids: Vec<_> = (USER..USER + 50).chain([OWNER, ROOT]).collect();
    let held = fill(100_000, 10_000, &uids);
    assert_eq!(held[0].1, 10_000, "the limit of one user");
    assert!(held.iter().map(|(_, held)| held).sum::<usize>() <= 100_000);
    for (at, (uid, held)) in held.iter().enumerate() {
        assert!(
            *held >= share::guaranteed(87_500, at + 1).min(10_000),
            "{uid}: {held}"
        );
    }
    for (uid, held) in &held[50..] {
        assert!(*held >= 6_250, "{uid}: {held}");
    }
}

#[test]
fn a_user_that_is_alone_gets_the_stated_limit() {
    for (total, per_user, uid, expected) in [
        (100_000, 10_000, USER, 10_000),
        (10, 10, USER, 10),
        (2, 2, ROOT, 2),
        (160, 160, USER, 140),
        (160, 160, ROOT, 150),
    ] {
        assert_eq!(fill(total, per_user, &[uid]), [(uid, expected)]);
    }
}

#[test]
fn the_limit_of_one_user_applies_to_all_users() {
    let limit = Limit {
        total: 100,
        reserve: 8,
        per_user: Some(3),
    };
    let accounts = Accounts::new(OWNER, Newcomers::Possible, [limit; 3]);
    for uid in [USER, OWNER, ROOT] {
        assert_eq!(take_all(&accounts, uid).len(), 3, "{uid}");
    }
}

#[test]
fn a_user_without_charges_has_no_account() {
    let accounts = accounts(Newcomers::Possible, 100, 2);
    for uid in [ROOT, USER] {
        let charges = take_all(&accounts, uid);
        assert_eq!(accounts.users(), [uid]);
        drop(charges);
        assert!(accounts.users().is_empty());
    }
}

#[test]
fn a_unit_that_was_given_back_is_charged_again_although_the_share_has_shrunk() {
    let accounts = accounts(Newcomers::Possible, 116, 8);
    let mut held = take_all(&accounts, USER);
    let _other = take_all(&accounts, USER + 1);
    held.pop();
    assert!(accounts.try_charge(USER, Resource::Streams).is_err());
    let most = held.len() + 1;
    held.extend(accounts.try_charge_within(USER, Resource::Streams, most));
    assert_eq!(held.len(), most);
    let beyond = accounts.try_charge_within(USER, Resource::Streams, most);
    assert!(beyond.is_none());
}

/// One step: a user takes units until a refusal, or at most so many, or gives some back.
#[derive(Clone, Copy, Debug)]
enum Step {
    Take(usize),
    GiveBack(usize),
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        (1_usize..300).prop_map(Step::Take),
        (1_usize..300).prop_map(Step::GiveBack),
    ];
    prop::collection::vec((0_usize..6, step), 1..60)
}

/// Two of them have reserves.
const UIDS: [u32; 6] = [ROOT, OWNER, USER, 2_002, 2_003, 2_004];

proptest! {
    #[test]
    fn after_any_steps_the_sum_is_within_the_limit_and_each_user_gets_its_guarantee(
        total in 6_usize..600,
        steps in steps(),
    ) {
        let reserve = (total / 8).clamp(1, 8);
        let accounts = accounts(Newcomers::Possible, total, reserve);
        let pool = total - 2 * reserve;
        let mut held: [Vec<Charge>; 6] = Default::default();
        for (who, step) in steps {
            match step {
                Step::Take(count) => {
                    let charge = || accounts.try_charge(UIDS[who], Resource::Streams).ok();
                    held[who].extend(std::iter::from_fn(charge).take(count));
                }
                Step::GiveBack(count) => {
                    let left = held[who].len().saturating_sub(count);
                    held[who].truncate(left);
                }
            }
            let sum: usize = held.iter().map(Vec::len).sum();
            prop_assert!(sum <= total, "{sum} of {total}");
            let holders = held.iter().filter(|charges| !charges.is_empty()).count();
            prop_assert_eq!(accounts.users().len(), holders);
            for (uid, charges) in UIDS.into_iter().zip(&held) {
                let usage = accounts.usage(uid, Resource::Streams);
                prop_assert_eq!(usage.used, charges.len());
                // At most all six are active.
                let users = holders + usize::from(charges.is_empty());
                prop_assert!(usage.limit >= share::guaranteed(pool, users), "{uid}: {usage:?}");
                if matches!(uid, ROOT | OWNER) {
                    prop_assert!(usage.limit >= reserve, "{uid}: {usage:?}");
                }
            }
        }
        drop(held);
        prop_assert!(accounts.users().is_empty());
    }
}
