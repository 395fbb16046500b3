//! Pipelines, the apps in them, and promotions.

mod support;

use ferroku_core::pipeline::{MAX_PIPELINES, PipelineOwner, Stage, TargetStatus};
use ferroku_core::slug::Slug;
use ferroku_core::{ReleaseId, SlugId, TeamId};
use ferroku_store::pipelines::{self, NewPromotion};
use ferroku_store::releases::{ConfigChange, NewRelease, SlugChange};
use ferroku_store::{Result, StoreError, releases, slugs, teams, write};
use support::{account, app, each_database};
use uuid::Uuid;

#[tokio::test]
async fn pipelines_have_one_name_an_owner_and_an_end() {
    each_database(|store| async move {
        let (me, you) = (account(&store, "me@example.com").await, account(&store, "you@example.com").await);
        let mine = PipelineOwner::User(me.account_id);
        let shop = pipelines::create(&store, "shop", mine, &me, 5).await.expect("made");
        let taken = pipelines::create(&store, "shop", PipelineOwner::User(you.account_id), &you, 5).await;
        assert!(matches!(taken, Err(StoreError::Taken { .. })), "{taken:?}");
        let team = TeamId(Uuid::new_v4());
        teams::create(&store, team, "crew", &you, 5).await.expect("a team");
        pipelines::create(&store, "crews", PipelineOwner::Team(team), &you, 5).await.expect("made");
        let names = async |id| {
            let seen = pipelines::list_for_account(&store, id).await.expect("read");
            seen.into_iter().map(|one| one.name).collect::<Vec<_>>()
        };
        assert_eq!(
            (names(me.account_id).await, names(you.account_id).await),
            (vec!["shop".into()], vec!["crews".into()])
        );
        let web = app(&store, "web", &you).await;
        let coupled = pipelines::couple(&store, &shop, &web, Stage::Staging, &you, 6).await.expect("coupled");
        let twice = pipelines::couple(&store, &shop, &web, Stage::Staging, &you, 6).await;
        assert!(matches!(twice, Err(StoreError::Refused(_))), "{twice:?}");
        assert_eq!(names(you.account_id).await, ["crews", "shop"], "by its app");
        pipelines::set_stage(&store, &coupled, Stage::Production, &you, 7).await.expect("moved");
        let found = pipelines::coupling_of_app(&store, web.id).await.expect("read").expect("there");
        assert_eq!(
            (found.stage, found.pipeline_name.as_str(), found.updated_at),
            (Stage::Production, "shop", 7)
        );
        assert_eq!(pipelines::rename(&store, shop.id, "store", &me, 8).await.expect("renamed").name, "store");
        pipelines::delete(&store, shop.id, &me, 9).await.expect("deleted");
        assert!(pipelines::all_couplings(&store).await.expect("read").is_empty());
        assert!(pipelines::find(&store, "store").await.expect("read").is_none());
        for number in 0..MAX_PIPELINES {
            pipelines::create(&store, &format!("line-{number}"), mine, &me, 9).await.expect("made");
        }
        let more = pipelines::create(&store, "line-more", mine, &me, 9).await;
        assert!(matches!(more, Err(StoreError::Refused(_))), "{more:?}");
    })
    .await;
}

#[tokio::test]
async fn a_promotion_is_written_a_target_at_a_time_and_what_was_cut_off_has_failed() {
    each_database(|store| async move {
        let me = account(&store, "me@example.com").await;
        let (from, to, other) =
            (app(&store, "from", &me).await, app(&store, "to", &me).await, app(&store, "other", &me).await);
        let line = pipelines::create(&store, "line", PipelineOwner::User(me.account_id), &me, 5).await.expect("made");
        let slug = Slug {
            id: SlugId(Uuid::new_v4()),
            app_id: from.id,
            digest: "one".to_owned(),
            commit: None,
            commit_description: None,
            stack: "heroku-24".to_owned(),
            size_bytes: 1,
            process_types: [("web".to_owned(), "serve".to_owned())].into(),
            buildpack_provided_description: None,
            archive_sha256: None,
            deleted_at: None,
            created_at: 5,
        };
        let made: Result<_> = async {
            write!(&store, tx => {
                slugs::create(&mut tx, &slug).await?;
                let new = NewRelease {
                    id: ReleaseId(Uuid::new_v4()),
                    app_id: from.id,
                    actor: &me,
                    description: "Deploy".to_owned(),
                    slug: SlugChange::Set(slug.id),
                    config: ConfigChange::Keep,
                };
                releases::create(&mut tx, store.key(), new, 5).await
            })
        }
        .await;
        let release = made.expect("released");
        let targets = vec![(to.id, None), (other.id, Some("not yours".to_owned()))];
        let new = NewPromotion { pipeline_id: line.id, source: &from, release: &release, slug: &slug, targets };
        let promotion = pipelines::promote(&store, &new, &me, 6).await.expect("promoted");
        let seen: Vec<_> = promotion.targets.iter().map(|one| (one.app_id, one.status(), one.why_failed())).collect();
        assert_eq!(
            seen,
            [(to.id, TargetStatus::Succeeded, None), (other.id, TargetStatus::Failed, Some("not yours"))]
        );
        let released = releases::current(&store, to.id).await.expect("read").expect("there");
        assert_eq!((released.version, released.description.as_str()), (3, "Promote from v3"));
        assert_eq!(slugs::by_digest(&store, "one").await.expect("read").len(), 2);
        assert_eq!(pipelines::fail_cut_off(&store).await.expect("none"), 0, "every target is done");

        let lost: Result<()> = async {
            write!(&store, tx => {
                sqlx::query("UPDATE pipeline_promotion_target SET release_id = NULL WHERE error_message IS NULL")
                    .execute(&mut *tx)
                    .await
                    .map_err(|source| StoreError::Query { action: "cut off", source })?;
                Ok(())
            })
        }
        .await;
        lost.expect("as after a crash");
        assert_eq!(pipelines::fail_cut_off(&store).await.expect("one"), 1);
        let promotion = pipelines::promotion(&store, &promotion.id.to_string()).await.expect("read").expect("there");
        assert!(promotion.targets[0].why_failed().is_some_and(|why| why.contains("Promote again")) && promotion.is_complete());

        // A slug that the collector marked is not promoted any more.
        let kept = SlugId(Uuid::new_v4());
        let gone = Slug { id: kept, ..slug.clone() };
        let new = NewPromotion { slug: &gone, targets: vec![(to.id, None)], ..new };
        let refused = pipelines::promote(&store, &new, &me, 7).await.expect("promoted");
        assert!(refused.targets[0].why_failed().is_some_and(|why| why.contains("removed to save space")));
        assert_eq!(releases::list(&store, to.id).await.expect("read").len(), 3);
    })
    .await;
}
