//! Teams, their apps, collaborators and transfers.

mod support;

use ferroku_core::account::{Account, Role};
use ferroku_core::app_transfer::TransferState;
use ferroku_core::collaborator::{Permission, Permissions};
use ferroku_core::event::Actor;
use ferroku_core::team::{Team, TeamRole};
use ferroku_core::{AppTransferId, TeamId};
use ferroku_store::{
    Store, StoreError, account_changes, accounts, app_transfers, apps, collaborators, events, formations,
    team_members, teams, write,
};
use support::{account, app, each_database};
use uuid::Uuid;

async fn stored(store: &Store, who: &Actor) -> Account {
    accounts::find(store, who.account_id).await.expect("read").expect("made")
}

async fn team(store: &Store, name: &str, admin: &Actor) -> Team {
    teams::create(store, TeamId(Uuid::new_v4()), name, admin, 1).await.expect("a team")
}

#[tokio::test]
async fn a_team_never_loses_its_last_admin_and_its_leavers_lose_its_apps() {
    each_database(|store| async move {
        let (me, you) = (account(&store, "me@example.com").await, account(&store, "you@example.com").await);
        let acme = team(&store, "acme", &me).await;
        let again = teams::create(&store, TeamId(Uuid::new_v4()), "acme", &you, 1).await;
        assert!(matches!(again, Err(StoreError::Taken { .. })), "{again:?}");
        let (mine, yours) = (stored(&store, &me).await, stored(&store, &you).await);
        let put = async |who: &Account, role| team_members::put(&store, acme.id, who, role, &me, 2).await;
        assert!(matches!(put(&mine, TeamRole::Member).await, Err(StoreError::Refused(_))));
        put(&yours, TeamRole::Viewer).await.expect("added");
        put(&yours, TeamRole::Admin).await.expect("promoted");
        put(&mine, TeamRole::Member).await.expect("there is another admin");
        let role = |who: &Actor| teams::role(&store, acme.id, who.account_id);
        assert_eq!(role(&me).await.expect("read"), Some(TeamRole::Member));
        let of_you = teams::list_for_account(&store, you.account_id).await.expect("read");
        assert_eq!(of_you, [(acme.clone(), TeamRole::Admin)]);

        let shop = app(&store, "shop", &me).await;
        let shop = apps::give_to_team(&store, shop.id, acme.id, &me, 3).await.expect("given");
        assert_eq!((shop.team_id, shop.belongs_to(me.account_id)), (Some(acme.id), false));
        let seen = |who: &Actor| apps::list_for_account(&store, who.account_id);
        assert_eq!((seen(&me).await.expect("read").len(), seen(&you).await.expect("read").len()), (1, 1));
        let may = async || collaborators::permissions(&store, shop.id, me.account_id).await.expect("read");
        let full = may().await;
        assert!(full.contains(&Permission::Manage), "{full:?}");
        put(&mine, TeamRole::Viewer).await.expect("demoted");
        let rest: Permissions = full.into_iter().filter(|one| *one != Permission::Manage).collect();
        assert_eq!(may().await, rest);
        let nothing = Permissions::new();
        let none: ferroku_store::Result<()> = async {
            write!(&store, tx => { collaborators::create(&mut tx, shop.id, you.account_id, &nothing, 3).await })
        }
        .await;
        none.expect("added");
        let theirs = collaborators::permissions(&store, shop.id, you.account_id).await.expect("read");
        assert_eq!(theirs, [Permission::View].into(), "nobody is a collaborator who may do nothing");
        assert!(matches!(teams::delete(&store, acme.id, &you, 4).await, Err(StoreError::Refused(_))));
        let leaver =
            team_members::find(&store, acme.id, "ME@example.com").await.expect("read").expect("in it");
        team_members::delete(&store, &leaver, &me, 5).await.expect("left");
        assert!(seen(&me).await.expect("read").is_empty());
        let deleted = account_changes::delete(&store, you.account_id, &you, 6).await;
        assert!(
            matches!(deleted, Err(StoreError::Refused(_))),
            "its last admin's account stays: {deleted:?}"
        );
        let last =
            team_members::find(&store, acme.id, "you@example.com").await.expect("read").expect("in it");
        assert!(matches!(team_members::delete(&store, &last, &you, 6).await, Err(StoreError::Refused(_))));
        apps::destroy(&store, shop.id, &you, 7).await.expect("destroyed");
        teams::delete(&store, acme.id, &you, 8).await.expect("deleted");
        assert!(teams::find(&store, "acme").await.expect("read").is_none());
    })
    .await;
}

#[tokio::test]
async fn a_transfer_is_decided_once_and_leaves_the_former_owner_a_collaborator() {
    each_database(|store| async move {
        let (me, you) = (account(&store, "me@example.com").await, account(&store, "you@example.com").await);
        let gift = app(&store, "gift", &me).await;
        let id = AppTransferId(Uuid::new_v4());
        app_transfers::create(&store, id, &gift, you.account_id, &me, 1).await.expect("offered");
        let second =
            app_transfers::create(&store, AppTransferId(Uuid::new_v4()), &gift, you.account_id, &me, 1);
        assert!(matches!(second.await, Err(StoreError::Refused(_))));
        let all = app_transfers::list_for_account(&store, you.account_id).await.expect("read");
        assert_eq!((all.len(), all[0].app_name.as_str(), all[0].state), (1, "gift", TransferState::Pending));
        let decide = |state| app_transfers::decide(&store, &all[0], state, &you, 2);
        decide(TransferState::Accepted).await.expect("accepted");
        assert!(matches!(decide(TransferState::Declined).await, Err(StoreError::Refused(_))));
        let gift = apps::by_id(&store, gift.id).await.expect("read").expect("there");
        assert!(gift.belongs_to(you.account_id));
        let permissions = |who: &Actor| collaborators::permissions(&store, gift.id, who.account_id);
        assert_eq!(permissions(&you).await.expect("read"), Permission::ALL.into());
        assert!(!permissions(&me).await.expect("read").contains(&Permission::Manage));
        let last = events::after(&store, 0, 1000).await.expect("read").pop().expect("an event");
        assert_eq!((last.kind.as_str(), last.app_id), ("app.transfer", Some(gift.id)));
    })
    .await;
}

#[tokio::test]
async fn nobody_is_given_an_app_that_takes_more_than_they_may_have() {
    each_database(|store| async move {
        let (me, you) = (account(&store, "me@example.com").await, account(&store, "you@example.com").await);
        let gift = app(&store, "gift", &me).await;
        let types = [("web".to_owned(), "serve".to_owned())].into_iter().collect();
        let scale = async |quantity| -> ferroku_store::Result<()> {
            write!(&store, tx => {
                formations::apply_process_types(&mut tx, gift.id, &types, true, 1).await?;
                formations::update(&mut tx, gift.id, "web", quantity, "basic", 1).await
            })
        };
        // One more than a stranger may have.
        scale(11).await.expect("scaled");
        let id = AppTransferId(Uuid::new_v4());
        app_transfers::create(&store, id, &gift, you.account_id, &me, 1).await.expect("offered");
        let offered = app_transfers::list_for_account(&store, you.account_id).await.expect("read");
        let accept = || app_transfers::decide(&store, &offered[0], TransferState::Accepted, &you, 2);
        let refused = accept().await;
        assert!(
            matches!(&refused, Err(StoreError::Refused(why)) if why.contains("11 of dynos")),
            "{refused:?}"
        );
        let still = apps::by_id(&store, gift.id).await.expect("read").expect("there");
        assert!(still.belongs_to(me.account_id));
        scale(10).await.expect("scaled");
        accept().await.expect("it was pending still");
        // What somebody has already is not counted twice.
        let acme = team(&store, "acme", &you).await;
        apps::give_to_team(&store, gift.id, acme.id, &you, 3).await.expect("given");
        apps::give_to_account(&store, gift.id, you.account_id, &you, 4).await.expect("taken back");
    })
    .await;
}

#[tokio::test]
async fn giving_a_teams_app_to_somebody_takes_everybody_elses_access() {
    each_database(|store| async move {
        let (me, you) = (account(&store, "me@example.com").await, account(&store, "you@example.com").await);
        let acme = team(&store, "acme", &me).await;
        let tool = app(&store, "tool", &you).await;
        let offered =
            app_transfers::create(&store, AppTransferId(Uuid::new_v4()), &tool, me.account_id, &you, 1);
        offered.await.expect("offered");
        apps::give_to_team(&store, tool.id, acme.id, &you, 2).await.expect("given");
        let left = app_transfers::list_for_account(&store, you.account_id).await.expect("read");
        assert!(left.is_empty(), "the offer is void");
        let tool = apps::set_locked(&store, tool.id, true, &me, 3).await.expect("locked");
        assert!(tool.locked);
        let tool = apps::give_to_account(&store, tool.id, me.account_id, &me, 4).await.expect("taken");
        assert_eq!((tool.team_id, tool.locked, tool.owner_id), (None, false, me.account_id));
        let people = collaborators::list(&store, tool.id).await.expect("read");
        assert_eq!((people.len(), people[0].account_id), (1, me.account_id));
        let admin = accounts::set_role(&store, you.account_id, Role::Admin, &me, 5).await.expect("appointed");
        assert_eq!(admin.role, Role::Admin);
    })
    .await;
}
