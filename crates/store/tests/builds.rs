//! Builds, slugs and buildpacks.

mod support;

use ferroku_core::build::{Build, BuildSource, BuildStatus};
use ferroku_core::event::Actor;
use ferroku_core::release::{Release, ReleaseStatus};
use ferroku_core::retention::{Moment, Retention};
use ferroku_core::slug::{Slug, SlugUpload};
use ferroku_core::{AppId, BuildId, ReleaseId, SlugId};
use ferroku_store::builds::Outcome;
use ferroku_store::releases::{ConfigChange, NewRelease, SlugChange};
use ferroku_store::{
    Result, Store, StoreError, buildpack_installations, builds, releases, slug_uploads, slugs, write,
};
use support::{account, app, each_database};
use uuid::Uuid;

fn slug(app_id: AppId, digest: &str, created_at: i64) -> Slug {
    Slug {
        id: SlugId(Uuid::new_v4()),
        app_id,
        digest: digest.to_owned(),
        commit: Some("abcdef".to_owned()),
        commit_description: None,
        stack: "heroku-24".to_owned(),
        size_bytes: 1,
        process_types: [("web".to_owned(), "serve".to_owned())].into(),
        buildpack_provided_description: Some("Python".to_owned()),
        archive_sha256: None,
        deleted_at: None,
        created_at,
    }
}

fn build(actor: &Actor, app_id: AppId, created_at: i64) -> Build {
    Build {
        id: BuildId(Uuid::new_v4()),
        app_id,
        account_id: actor.account_id,
        status: BuildStatus::Pending,
        stack: "heroku-24".to_owned(),
        buildpacks: Vec::new(),
        source: Some(BuildSource {
            url: "https://example.com/a.tgz".to_owned(),
            checksum: Some("SHA256:00".to_owned()),
            version_description: None,
        }),
        source_version: Some("abcdef".to_owned()),
        slug_id: None,
        release_id: None,
        created_at,
        updated_at: created_at,
    }
}

/// Writes a slug and a release of it.
async fn deploy(store: &Store, actor: &Actor, slug: &Slug) -> Result<Release> {
    let id = ReleaseId(Uuid::new_v4());
    write!(store, tx => {
        slugs::create(&mut tx, slug).await?;
        let new = NewRelease {
            id,
            app_id: slug.app_id,
            actor,
            description: "Deploy abcdef".to_owned(),
            slug: SlugChange::Set(slug.id),
            config: ConfigChange::Keep,
        };
        releases::create(&mut tx, store.key(), new, slug.created_at).await
    })
}

#[tokio::test]
async fn a_build_ends_once() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let app_id = app(&store, "shop", &actor).await.id;
        let (good, bad) = (build(&actor, app_id, 1), build(&actor, app_id, 2));
        for build in [&good, &bad] {
            let made: Result<()> =
                async { write!(&store, tx => { builds::create(&mut tx, build).await }) }.await;
            made.expect("written");
        }
        assert_eq!(builds::list(&store, app_id).await.expect("read"), [good.clone(), bad.clone()]);
        assert!(!builds::was_built(&store, app_id, "abcdef").await.expect("read"));
        let slug = slug(app_id, "one", 5);
        let release = deploy(&store, &actor, &slug).await.expect("released");
        assert_eq!(slugs::find(&store, slug.id).await.expect("read"), Some(slug.clone()));
        let buildpacks = vec!["heroku/python".to_owned()];
        let outcome = Outcome::Succeeded { slug_id: slug.id, release_id: release.id, buildpacks };
        let end = |outcome: Outcome| {
            let (store, id) = (store.clone(), good.id);
            async move { write!(&store, tx => { builds::finish(&mut tx, id, &outcome, 9).await }) }
        };
        end(outcome).await.expect("ended");
        assert!(matches!(end(Outcome::Failed).await, Err(StoreError::NotFound { .. })));
        assert!(builds::was_built(&store, app_id, "abcdef").await.expect("read"));
        let failed = builds::fail_pending(&store, 10).await.expect("failed");
        assert_eq!(failed.iter().map(|build| build.id).collect::<Vec<_>>(), [bad.id]);
        let found = builds::find(&store, app_id, good.id).await.expect("read").expect("there");
        assert_eq!(
            (found.status, found.slug_id, found.updated_at),
            (BuildStatus::Succeeded, Some(slug.id), 9)
        );
        assert_eq!(found.buildpacks, ["heroku/python"]);
        let found = builds::find(&store, app_id, bad.id).await.expect("read").expect("there");
        assert_eq!(found.status, BuildStatus::Failed);
    })
    .await;
}

#[tokio::test]
async fn an_announced_slug_is_released_only_once_it_has_come() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let app_id = app(&store, "shop", &actor).await.id;
        let upload = |number: u128, created_at| SlugUpload {
            id: SlugId(Uuid::from_u128(number)),
            app_id,
            commit: Some("abc".to_owned()),
            commit_description: None,
            stack: "heroku-24".to_owned(),
            process_types: [("web".to_owned(), "x".to_owned())].into(),
            buildpack_provided_description: None,
            sha256: None,
            created_at,
        };
        for number in 0..slug_uploads::MAX_OF_APP {
            let one = upload(number.cast_unsigned().into(), number);
            slug_uploads::create(&store, &one, &actor).await.expect("announced");
        }
        let more = slug_uploads::create(&store, &upload(999, 5), &actor).await.expect_err("too many");
        assert!(more.to_string().contains("100 slugs of this app wait"), "{more}");
        let (one, two) = (upload(1, 1), upload(2, 2));
        assert_eq!(slug_uploads::find(&store, one.id).await.expect("read"), Some(one.clone()));
        let refused = releases::release_slug(&store, app_id, one.id, "x", &actor, 3).await;
        assert!(
            matches!(&refused, Err(StoreError::Refused(why)) if why.contains("Nothing was uploaded")),
            "{refused:?}"
        );

        let slug = one.into_slug("ab".to_owned(), "digest".to_owned(), 7);
        let complete =
            async || -> Result<()> { write!(&store, tx => { slug_uploads::complete(&mut tx, &slug).await }) };
        complete().await.expect("done");
        assert!(matches!(complete().await, Err(StoreError::NotFound { what: "slug" })), "once");
        assert_eq!(slug_uploads::find(&store, slug.id).await.expect("read"), None);
        assert_eq!(slugs::find(&store, slug.id).await.expect("read"), Some(slug.clone()));
        releases::release_slug(&store, app_id, slug.id, "x", &actor, 3).await.expect("released");

        slug_uploads::remove_old(&store, 2).await.expect("removed");
        assert!(slug_uploads::find(&store, two.id).await.expect("read").is_some(), "not old enough");
        slug_uploads::remove_old(&store, 3).await.expect("removed");
        assert_eq!(slug_uploads::find(&store, two.id).await.expect("read"), None);
    })
    .await;
}

#[tokio::test]
async fn a_release_whose_slug_is_gone_is_expired_and_never_the_current_one() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let app_id = app(&store, "shop", &actor).await.id;
        for number in 1..=6 {
            let slug = slug(app_id, &format!("digest-{number}"), number);
            deploy(&store, &actor, &slug).await.expect("released");
        }
        // Back to the second oldest: it is current, though not among the newest. Three new ones are kept in any case.
        releases::rollback(&store, app_id, "v4", &actor, 10).await.expect("rolled back");
        assert_eq!(slugs::crowded_apps(&store, 5).await.expect("read"), [(app_id, actor.account_id)]);
        assert!(slugs::crowded_apps(&store, 6).await.expect("read").is_empty());
        let retention = Retention { releases: 1, age_ms: 1 };
        let moment = Moment { now: 11, is_scarce: false };
        let planned = slugs::to_expire(&store, app_id, retention, moment).await.expect("read");
        assert_eq!(slugs::expire(&store, app_id, retention, moment).await.expect("expired"), 2);
        assert_eq!(planned.len(), 2);
        assert_eq!(slugs::expire(&store, app_id, retention, moment).await.expect("expired"), 0, "once");
        let all = releases::list(&store, app_id).await.expect("read");
        let expired: Vec<i64> =
            all.iter().filter(|one| one.status == ReleaseStatus::Expired).map(|one| one.version).collect();
        assert_eq!(expired, [3, 5]);
        assert_eq!(releases::current(&store, app_id).await.expect("read").map(|one| one.version), Some(9));
        let mut left = slugs::digests(&store).await.expect("read");
        left.sort();
        assert_eq!(left, ["digest-2", "digest-4", "digest-5", "digest-6"], "the newest three, too");
        let refused = releases::rollback(&store, app_id, "v5", &actor, 12).await.expect_err("gone");
        assert!(refused.to_string().contains("removed to save space"), "{refused}");
        releases::rollback(&store, app_id, "v6", &actor, 12).await.expect("still there");
    })
    .await;
}

#[tokio::test]
async fn what_a_build_found_is_pinned_unless_the_user_chose() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let app_id = app(&store, "shop", &actor).await.id;
        let change = |urls: &[&str], pin: bool| {
            let (store, urls) = (store.clone(), urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>());
            async move {
                let done: Result<()> = async {
                    write!(&store, tx => {
                        match pin {
                            true => buildpack_installations::pin(&mut tx, app_id, &urls).await,
                            false => buildpack_installations::replace(&mut tx, app_id, &urls, false).await,
                        }
                    })
                }
                .await;
                done.expect("written");
                let all = buildpack_installations::list(&store, app_id).await.expect("read");
                all.into_iter().map(|one| (one.ordinal, one.url)).collect::<Vec<_>>()
            }
        };
        assert_eq!(change(&["heroku/python"], true).await, [(0, "heroku/python".to_owned())]);
        assert_eq!(change(&["heroku/nodejs"], true).await, [(0, "heroku/python".to_owned())]);
        assert_eq!(change(&["a", "b"], false).await, [(0, "a".to_owned()), (1, "b".to_owned())]);
        assert_eq!(change(&["heroku/python"], true).await.len(), 2);
        assert_eq!(change(&[], false).await, []);
    })
    .await;
}
