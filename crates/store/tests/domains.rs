//! Domains, certificates, automatic certificates, app features.

mod support;

use ferroku_core::app::App;
use ferroku_core::domain::{AcmStatus, Domain, DomainStatus};
use ferroku_core::event::Actor;
use ferroku_core::sni_endpoint::Certificate;
use ferroku_core::{AppId, DomainId, Millis};
use ferroku_store::acm::{self, ORDER_JOB, OrderJob, Outcome};
use ferroku_store::domains::NewDomain;
use ferroku_store::jobs::Job;
use ferroku_store::sni_endpoints::Material;
use ferroku_store::{
    MasterKey, Result, Store, StoreError, acme_accounts, app_features, apps, domains, events, jobs,
    sni_endpoints, write,
};
use std::collections::HashMap;
use support::{account, app, each_database};
use uuid::Uuid;

async fn add(store: &Store, app: &App, hostname: &str, actor: &Actor, now: Millis) -> Result<Domain> {
    let id = DomainId(Uuid::new_v4());
    let cname = format!("{id}.localhost");
    let new = NewDomain { id, hostname, cname: &cname, sni_endpoint_id: None };
    domains::create(store, app, &new, actor, now).await
}

fn certificate(names: &[&str]) -> Certificate {
    Certificate {
        domains: names.iter().map(|name| (*name).to_owned()).collect(),
        subject: "/CN=one".to_owned(),
        issuer: "/CN=two".to_owned(),
        starts_at: 1,
        expires_at: 9,
        is_ca_signed: false,
        is_self_signed: false,
    }
}

fn material<'a>(certificate: &'a Certificate, private_key: &'a str) -> Material<'a> {
    Material { certificate_chain: "chain", certificate, private_key }
}

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result.expect_err("refused") {
        StoreError::Refused(message) => message,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_host_name_belongs_to_one_app_and_wildcards_to_one_owner() {
    each_database(|store| async move {
        let (me, other) = (account(&store, "me@example.com").await, account(&store, "o@example.com").await);
        let shop = app(&store, "shop", &me).await;
        let mine = app(&store, "mine", &me).await;
        let theirs = app(&store, "theirs", &other).await;
        let www = add(&store, &shop, "www.example.com", &me, 5).await.expect("added");
        assert_eq!(
            (www.status, www.hostname.as_str(), www.acm_status),
            (DomainStatus::Pending, "www.example.com", None)
        );
        assert_eq!(
            message(add(&store, &shop, "www.example.com", &me, 6).await),
            "Domain already added to this app."
        );
        for app in [&mine, &theirs] {
            assert_eq!(
                message(add(&store, app, "www.example.com", &me, 6).await),
                "www.example.com is currently in use by another app."
            );
        }
        // A wildcard above another owner's name, or a name below another owner's wildcard, would take visitors away.
        assert!(
            message(add(&store, &theirs, "*.example.com", &other, 6).await).contains("in use by another app")
        );
        add(&store, &mine, "*.example.com", &me, 6).await.expect("one owner's apps may share a domain");
        assert!(
            message(add(&store, &theirs, "api.example.com", &other, 7).await)
                .contains("by a wildcard or a name under it")
        );
        add(&store, &theirs, "a.b.example.com", &other, 7)
            .await
            .expect("two labels below is not the wildcard's");
        add(&store, &theirs, "example.com", &other, 7).await.expect("nor is its base");
        add(&store, &theirs, "other-example.com", &other, 7).await.expect("nor what only ends alike");

        domains::served(&store, &[www.id], 8).await.expect("noted");
        let found = domains::find(&store, shop.id, "www.example.com").await.expect("read").expect("there");
        assert_eq!((found.status, found.updated_at), (DomainStatus::Succeeded, 8));
        assert_eq!(domains::find(&store, mine.id, "www.example.com").await.expect("read"), None);
        domains::delete(&store, &found, &me, 9).await.expect("removed");
        let again = domains::delete(&store, &found, &me, 9).await;
        assert!(matches!(again, Err(StoreError::NotFound { what: "domain" })));
        add(&store, &mine, "www.example.com", &me, 10).await.expect("free again");
        let kinds: Vec<String> =
            events::after(&store, 0, 100).await.expect("read").into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds.iter().filter(|kind| *kind == "domain.create").count(), 6, "{kinds:?}");
        assert_eq!(kinds.iter().filter(|kind| *kind == "domain.destroy").count(), 1, "{kinds:?}");
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_bound_to_what_it_covers_and_its_key_is_sealed() {
    each_database(|store| async move {
        let me = account(&store, "me@example.com").await;
        let shop = app(&store, "shop", &me).await;
        let www = add(&store, &shop, "www.example.com", &me, 1).await.expect("added");
        let deep = add(&store, &shop, "a.www.example.com", &me, 2).await.expect("added");
        let first = certificate(&["*.example.com"]);
        let one = sni_endpoints::create(&store, shop.id, "rex-1", &material(&first, "KEY 1"), &me, 3)
            .await
            .expect("added");
        let read = |id: DomainId| {
            let store = store.clone();
            async move { domains::by_id(&store, id).await.expect("read").expect("there") }
        };
        assert_eq!(read(www.id).await.sni_endpoint_id, Some(one.id));
        assert_eq!(read(deep.id).await.sni_endpoint_id, None);
        assert_eq!(
            sni_endpoints::private_key(&store, &one).await.expect("opens").expect("there").as_str(),
            "KEY 1"
        );
        let raw = sqlx_text(&store, "SELECT sealed_private_key FROM sni_endpoint").await;
        assert!(!raw.contains("KEY 1") && !raw.contains(&hex("KEY 1")));

        let taken = sni_endpoints::create(&store, shop.id, "rex-1", &material(&first, "KEY"), &me, 4).await;
        assert!(matches!(taken, Err(StoreError::Taken { .. })));
        let unfit = certificate(&["example.org"]);
        let refused = sni_endpoints::update(&store, &one, &material(&unfit, "KEY"), &me, 4).await;
        assert!(message(refused).contains("www.example.com"));
        let wider = certificate(&["www.example.com", "a.www.example.com"]);
        let two =
            sni_endpoints::update(&store, &one, &material(&wider, "KEY 2"), &me, 5).await.expect("updated");
        assert_eq!((two.version, two.certificate.domains.len()), (2, 2));
        assert_eq!(read(deep.id).await.sni_endpoint_id, Some(one.id));
        assert_eq!(
            sni_endpoints::private_key(&store, &one).await.expect("read"),
            None,
            "the first version is gone"
        );
        assert_eq!(
            sni_endpoints::private_key(&store, &two).await.expect("opens").expect("there").as_str(),
            "KEY 2"
        );

        domains::set_endpoint(&store, &read(deep.id).await, None, &me, 6).await.expect("taken away");
        assert_eq!(read(deep.id).await.sni_endpoint_id, None);
        sni_endpoints::delete(&store, &two, &me, 7).await.expect("removed");
        assert_eq!(read(www.id).await.sni_endpoint_id, None);
        apps::destroy(&store, shop.id, &me, 8).await.expect("destroyed with its domains");
        assert_eq!(domains::by_id(&store, www.id).await.expect("read"), None);
    })
    .await;
}

async fn order_job(store: &Store, now: Millis) -> Option<(Job, OrderJob)> {
    let job = acm::take(store, &HashMap::new(), 5, now + 10, now).await.expect("taken").pop()?;
    let payload = serde_json::from_str(&job.payload).expect("its form");
    Some((job, payload))
}

/// An app with automatic certificates, its domain, and the domain's job, which was taken at time 4.
async fn with_order_job(store: &Store) -> (Actor, App, Domain, Job) {
    let me = account(store, "me@example.com").await;
    let shop = app(store, "shop", &me).await;
    let www = add(store, &shop, "www.example.com", &me, 1).await.expect("added");
    acm::enable(store, shop.id, &me, 2).await.expect("on");
    acm::enqueue_due(store, 9, 3).await.expect("looked");
    let (job, _) = order_job(store, 4).await.expect("taken");
    (me, shop, www, job)
}

/// The authority gave a certificate.
async fn issue(
    store: &Store,
    job: &Job,
    domain: &Domain,
    name: &str,
    material: &Material<'_>,
    due_at: Millis,
    now: Millis,
) {
    let issued = Outcome::Issued { name, material, due_at };
    acm::conclude(store, job.id, domain, &issued, now).await.expect("written, or ignored");
}

#[tokio::test]
async fn a_due_domain_has_one_job_that_outlives_its_worker_until_it_is_done() {
    each_database(|store| async move {
        let me = account(&store, "me@example.com").await;
        let shop = app(&store, "shop", &me).await;
        let www = add(&store, &shop, "www.example.com", &me, 1).await.expect("added");
        let wild = add(&store, &shop, "*.example.org", &me, 2).await.expect("added");
        assert_eq!(acm::enqueue_due(&store, 9, 3).await.expect("looked"), 0, "it is off");
        assert!(acm::enable(&store, shop.id, &me, 4).await.expect("on").acm);
        let state = |id| {
            let store = store.clone();
            async move {
                let domain = domains::by_id(&store, id).await.expect("read").expect("there");
                (domain.acm_status, domain.acm_status_reason)
            }
        };
        assert_eq!(state(wild.id).await, (Some(AcmStatus::Failed), Some(acm::WILDCARD_REASON.to_owned())));
        assert_eq!(acm::enqueue_due(&store, 9, 5).await.expect("looked"), 1);
        assert_eq!(acm::enqueue_due(&store, 9, 6).await.expect("looked"), 0, "it has its job");

        let (job, payload) = order_job(&store, 7).await.expect("taken");
        assert_eq!((payload.domain_id, job.attempts, job.step.as_str()), (www.id, 1, ""));
        assert!(order_job(&store, 8).await.is_none(), "it is leased");
        assert!(acm::begun(&store, job.id, &www, 8).await.expect("noted"));
        let ordered = OrderJob { order_url: Some("https://ca/order/1".into()), ..payload };
        acm::ordered(&store, (job.id, shop.id), &ordered, 8).await.expect("noted");
        jobs::renew(&store, job.id, 100).await.expect("renewed");
        assert!(order_job(&store, 99).await.is_none());
        let (again, payload) = order_job(&store, 100).await.expect("its worker is dead");
        assert_eq!((again.id, again.attempts, again.step.as_str(), payload), (job.id, 2, "ordered", ordered));

        let failing = Outcome::Failing { reason: "no such host", at: 200 };
        acm::conclude(&store, job.id, &www, &failing, 101).await.expect("noted");
        assert_eq!(state(www.id).await, (Some(AcmStatus::Failing), Some("no such host".to_owned())));
        assert!(order_job(&store, 199).await.is_none());
        acm::refresh(&store, shop.id, &me, 150).await.expect("hastened");
        let (job, payload) = order_job(&store, 151).await.expect("at once");
        assert_eq!((job.attempts, job.step.as_str(), payload), (3, "", OrderJob::new(www.id)));
        let given_up = Outcome::GivenUp { reason: "still none", at: 1000 };
        acm::conclude(&store, job.id, &www, &given_up, 152).await.expect("noted");
        assert_eq!(state(www.id).await.0, Some(AcmStatus::Failed));
        assert_eq!(acm::enqueue_due(&store, 9, 999).await.expect("looked"), 0);
        assert_eq!(acm::enqueue_due(&store, 9, 1000).await.expect("looked"), 1, "it is looked at again");

        let (job, _) = order_job(&store, 1001).await.expect("taken");
        let got = certificate(&["www.example.com"]);
        issue(&store, &job, &www, "rex-1", &material(&got, "KEY 1"), 2000, 1002).await;
        assert_eq!(state(www.id).await, (Some(AcmStatus::Issued), None));
        assert!(jobs::open(&store, ORDER_JOB).await.expect("read").is_empty());
        let first = sni_endpoints::list(&store, shop.id).await.expect("read").remove(0);
        assert!(first.acm && first.version == 1);

        assert_eq!(acm::enqueue_due(&store, 9, 2000).await.expect("looked"), 1, "renewal");
        let (job, _) = order_job(&store, 2001).await.expect("taken");
        issue(&store, &job, &www, "rex-2", &material(&got, "KEY 2"), 3000, 2002).await;
        let all = sni_endpoints::list(&store, shop.id).await.expect("read");
        assert_eq!(
            (all.len(), all[0].version, all[0].name.as_str()),
            (1, 2, "rex-1"),
            "in the first one's place"
        );

        assert!(!acm::disable(&store, shop.id, &me, 2003).await.expect("off").acm);
        assert!(sni_endpoints::list(&store, shop.id).await.expect("read").is_empty());
        assert_eq!(state(www.id).await, (None, None));
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_comes_too_late_is_not_kept() {
    each_database(|store| async move {
        let me = account(&store, "me@example.com").await;
        let shop = app(&store, "shop", &me).await;
        let www = add(&store, &shop, "www.example.com", &me, 1).await.expect("added");
        let got = certificate(&["www.example.com"]);
        acm::enable(&store, shop.id, &me, 2).await.expect("on");
        acm::enqueue_due(&store, 9, 3).await.expect("looked");
        let (job, _) = order_job(&store, 4).await.expect("taken");
        acm::disable(&store, shop.id, &me, 5).await.expect("off");
        issue(&store, &job, &www, "rex-1", &material(&got, "KEY"), 9, 6).await;
        assert!(sni_endpoints::list(&store, shop.id).await.expect("read").is_empty());

        acm::enable(&store, shop.id, &me, 7).await.expect("on");
        acm::enqueue_due(&store, 9, 8).await.expect("looked");
        let (job, _) = order_job(&store, 9).await.expect("taken");
        domains::delete(&store, &www, &me, 10).await.expect("removed");
        issue(&store, &job, &www, "rex-1", &material(&got, "KEY"), 9, 11).await;
        assert!(sni_endpoints::list(&store, shop.id).await.expect("read").is_empty());
        assert!(jobs::open(&store, ORDER_JOB).await.expect("read").is_empty());

        // A domain with a certificate of its owner's is left alone, and one that goes takes its automatic one along.
        let own = add(&store, &shop, "own.example.com", &me, 12).await.expect("added");
        let owned = certificate(&["own.example.com"]);
        sni_endpoints::create(&store, shop.id, "own-1", &material(&owned, "KEY"), &me, 13)
            .await
            .expect("added");
        assert_eq!(acm::enqueue_due(&store, 9, 14).await.expect("looked"), 0);
        let bound = domains::by_id(&store, own.id).await.expect("read").expect("there");
        let unbound = domains::set_endpoint(&store, &bound, None, &me, 14).await.expect("taken away");
        let due = domains::due_for_certificate(&store, 14, 9).await.expect("read");
        assert_eq!(due, [unbound], "without it the node gets one");
        domains::delete(&store, &own, &me, 15).await.expect("removed");
        assert_eq!(sni_endpoints::list(&store, shop.id).await.expect("read").len(), 1, "the owner's stays");
        // Nor does a late automatic one take the place of the owner's.
        let late = add(&store, &shop, "late.example.com", &me, 15).await.expect("added");
        assert_eq!(acm::enqueue_due(&store, 9, 15).await.expect("looked"), 1);
        let (job, _) = order_job(&store, 15).await.expect("taken");
        let owned = certificate(&["late.example.com"]);
        let own = sni_endpoints::create(&store, shop.id, "own-2", &material(&owned, "KEY"), &me, 15)
            .await
            .expect("added");
        issue(&store, &job, &late, "late-1", &material(&owned, "KEY"), 99, 15).await;
        let bound = domains::by_id(&store, late.id).await.expect("read").expect("there");
        assert_eq!((bound.sni_endpoint_id, bound.acm_due_at), (Some(own.id), None));
        domains::delete(&store, &bound, &me, 15).await.expect("removed");
        sni_endpoints::delete(&store, &own, &me, 15).await.expect("removed");
        let auto = add(&store, &shop, "auto.example.com", &me, 16).await.expect("added");
        acm::enqueue_due(&store, 9, 17).await.expect("looked");
        let (job, _) = order_job(&store, 18).await.expect("taken");
        let got = certificate(&["auto.example.com"]);
        issue(&store, &job, &auto, "auto-1", &material(&got, "KEY"), 99, 19).await;
        assert_eq!(sni_endpoints::list(&store, shop.id).await.expect("read").len(), 2);
        domains::delete(&store, &auto, &me, 20).await.expect("removed");
        assert_eq!(sni_endpoints::list(&store, shop.id).await.expect("read").len(), 1);
    })
    .await;
}

#[tokio::test]
async fn switching_off_and_on_leaves_one_job_for_each_domain() {
    each_database(|store| async move {
        let (me, shop, www, old) = with_order_job(&store).await;
        acm::disable(&store, shop.id, &me, 5).await.expect("off");
        assert!(!acm::begun(&store, old.id, &www, 6).await.expect("looked"), "it is not wanted any more");
        acm::enable(&store, shop.id, &me, 7).await.expect("on");
        assert_eq!(acm::enqueue_due(&store, 9, 8).await.expect("looked"), 1);
        // What the first one comes to must not have the domain ordered twice.
        let failing = Outcome::Failing { reason: "too late", at: 9 };
        acm::conclude(&store, old.id, &www, &failing, 9).await.expect("ignored");
        assert_eq!(acm::enqueue_due(&store, 9, 10).await.expect("looked"), 0);
        assert_eq!(jobs::open(&store, ORDER_JOB).await.expect("read").len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_app_with_many_domains_keeps_no_other_waiting() {
    each_database(|store| async move {
        let me = account(&store, "me@example.com").await;
        let (many, one) = (app(&store, "many", &me).await, app(&store, "one", &me).await);
        for number in 0..9 {
            add(&store, &many, &format!("www{number}.example.com"), &me, 1).await.expect("added");
        }
        add(&store, &one, "www.example.org", &me, 2).await.expect("added");
        for app in [&many, &one] {
            acm::enable(&store, app.id, &me, 3).await.expect("on");
        }
        acm::enqueue_due(&store, 99, 4).await.expect("looked");
        let mut running = HashMap::new();
        let take = |running: &HashMap<_, _>, now| {
            let (store, running) = (store.clone(), running.clone());
            async move { acm::take(&store, &running, 8, now + 1, now).await.expect("taken") }
        };
        for job in take(&running, 5).await {
            running.insert(job.id, job.app_id.expect("an app's"));
        }
        let of = |app: &App| running.values().filter(|id| **id == app.id).count();
        assert_eq!((of(&many), of(&one)), (2, 1));
        assert_eq!(take(&running, 9).await, [], "this process works on them, whatever their leases say");
        // Every order counts, also of those that fail, until three hours are over; an attempt that comes to none does not.
        let mut orders: HashMap<AppId, usize> = HashMap::new();
        for round in 0..100 {
            let now = 10 + round * 10;
            for job in take(&HashMap::new(), now).await {
                let payload: OrderJob = serde_json::from_str(&job.payload).expect("its form");
                let domain = domains::by_id(&store, payload.domain_id).await.expect("read").expect("there");
                if round % 2 == 0 {
                    let ids = (job.id, domain.app_id);
                    acm::ordered(&store, ids, &payload, now).await.expect("noted");
                    *orders.entry(domain.app_id).or_default() += 1;
                }
                let failing = Outcome::Failing { reason: "no such host", at: now + 5 };
                acm::conclude(&store, job.id, &domain, &failing, now).await.expect("noted");
            }
        }
        assert_eq!(orders[&many.id], 60, "{orders:?}");
        assert!((40..=60).contains(&orders[&one.id]), "{orders:?}");
        let later = 2000 + ferroku_core::acm::ORDERS_WINDOW_MS;
        assert!(take(&HashMap::new(), later).await.iter().any(|job| job.app_id == Some(many.id)));
    })
    .await;
}

#[tokio::test]
async fn asking_again_makes_no_second_job() {
    each_database(|store| async move {
        let (me, shop, www, job) = with_order_job(&store).await;
        let given_up = Outcome::GivenUp { reason: "none", at: 10 };
        acm::conclude(&store, job.id, &www, &given_up, 5).await.expect("noted");
        assert_eq!(acm::enqueue_due(&store, 9, 10).await.expect("looked"), 1, "its next round");
        acm::refresh(&store, shop.id, &me, 11).await.expect("hastened");
        assert_eq!(acm::enqueue_due(&store, 9, Millis::MAX - 1).await.expect("looked"), 0);
        assert_eq!(jobs::open(&store, ORDER_JOB).await.expect("read").len(), 1);
        // A destroyed app's jobs go with it.
        apps::destroy(&store, shop.id, &me, 12).await.expect("destroyed");
        assert!(jobs::open(&store, ORDER_JOB).await.expect("read").is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_owners_certificate_takes_the_place_of_all_automatic_ones_or_of_none() {
    each_database(|store| async move {
        let me = account(&store, "me@example.com").await;
        let shop = app(&store, "shop", &me).await;
        acm::enable(&store, shop.id, &me, 1).await.expect("on");
        for (number, hostname) in ["a.example.com", "b.example.com"].into_iter().enumerate() {
            let domain = add(&store, &shop, hostname, &me, 2).await.expect("added");
            acm::enqueue_due(&store, 9, 3).await.expect("looked");
            let (job, _) = order_job(&store, 4).await.expect("taken");
            let got = certificate(&[hostname]);
            let name = format!("auto-{number}");
            issue(&store, &job, &domain, &name, &material(&got, "KEY"), 99, 5).await;
        }
        let all = sni_endpoints::list(&store, shop.id).await.expect("read");
        assert_eq!(all.len(), 2);
        let narrow = certificate(&["a.example.com"]);
        let refused = acm::replace(&store, &all[0], &material(&narrow, "OWN"), &me, 6).await;
        assert!(message(refused).contains("b.example.com"));
        assert_eq!(sni_endpoints::list(&store, shop.id).await.expect("read"), all, "nothing was changed");
        let wide = certificate(&["*.example.com"]);
        let own = acm::replace(&store, &all[0], &material(&wide, "OWN"), &me, 7).await.expect("replaced");
        assert!(!own.acm && own.version == 2);
        assert_eq!(sni_endpoints::list(&store, shop.id).await.expect("read"), [own.clone()]);
        let domains = domains::list(&store, shop.id).await.expect("read");
        assert!(
            domains
                .iter()
                .all(|domain| domain.sni_endpoint_id == Some(own.id) && domain.acm_status.is_none())
        );
        assert!(!apps::by_id(&store, shop.id).await.expect("read").expect("there").acm);
    })
    .await;
}

#[tokio::test]
async fn features_and_acme_accounts_are_kept() {
    each_database(|store| async move {
        let me = account(&store, "me@example.com").await;
        let shop = app(&store, "shop", &me).await;
        assert_eq!(app_features::list(&store, shop.id).await.expect("read"), []);
        app_features::set(&store, shop.id, "http-session-affinity", true, &me, 5).await.expect("on");
        let off =
            app_features::set(&store, shop.id, "http-session-affinity", false, &me, 6).await.expect("off");
        assert_eq!((off.enabled, off.created_at, off.updated_at), (false, 5, 6));
        assert_eq!(app_features::list(&store, shop.id).await.expect("read"), [off]);

        let url = "https://ca.example/directory";
        assert!(acme_accounts::find(&store, url).await.expect("read").is_none());
        acme_accounts::save(&store, url, b"one", 1).await.expect("kept");
        acme_accounts::save(&store, url, b"two", 2).await.expect("kept");
        assert_eq!(acme_accounts::find(&store, url).await.expect("read").expect("there").as_slice(), b"two");
        let raw = sqlx_text(&store, "SELECT sealed_credentials FROM acme_account").await;
        assert!(store.key().unseal("acme_account/https://other.example/1", &raw).is_err());
        assert!(MasterKey::new("test", [8; 32]).unseal(&format!("acme_account/{url}/1"), &raw).is_err());
        acme_accounts::forget(&store, url).await.expect("forgotten");
        assert!(acme_accounts::find(&store, url).await.expect("read").is_none());
        let written: Result<()> =
            async { write!(&store, tx => { jobs::cancel(&mut tx, "none", shop.id).await }) }.await;
        written.expect("nothing to cancel is no failure");
    })
    .await;
}

async fn sqlx_text(store: &Store, query: &'static str) -> String {
    use ferroku_store::sqlx::Row;
    let row = ferroku_store::sqlx::query(query).fetch_one(store.reader()).await.expect("a row");
    row.get(0)
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
