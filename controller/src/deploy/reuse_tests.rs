//! Tests of deploys that use a snapshot that exists, with test doubles of sandbox and guest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::data_dir::DataDir;
use crate::deploy::builder::tests::{artefacts_of_host, builder};
use crate::deploy::{Builder, CodeUpdate, ControlError, Deployer, Publish, Rebuilder};
use crate::function::{Environment, FunctionConfig, FunctionName, FunctionRecord, VersionId};
use crate::limits::HostCpus;
use crate::logs::LogStore;
use crate::pool::double::{Doubles, Stage};
use crate::pool::{Pool, PoolSettings, Shells};
use crate::registry::{Catalog, Contents, Database, Function, test_record};
use crate::revival::{revive, sweep};

const POOL: PoolSettings = PoolSettings {
    account_concurrency: 1000,
    max_instances: 100,
    max_per_function: 100,
    memory_budget_mib: 100_000,
    memory_per_function_mib: 100_000,
    idle_timeout: Duration::from_secs(600),
    throttle_wait: Duration::from_millis(50),
    max_starts: 4,
    max_waiting: 100,
    start_wait: SOON,
    start_tail: Duration::ZERO,
    finish_grace: Duration::from_millis(100),
};
/// For what should come at once on a host that may be busy.
const SOON: Duration = Duration::from_secs(60);

/// A controller's deploys, as its assembly puts them together.
struct Fixture {
    deployer: Deployer,
    stage: Arc<Stage>,
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        artefacts_of_host(folder.path());
        let stage = Stage::new();
        Self {
            deployer: deployer(folder.path(), &stage),
            stage,
            folder,
        }
    }

    /// The same after a restart.
    async fn restarted(self) -> Self {
        let data = self.deployer.builder.data.clone();
        self.deployer.pool.close();
        self.deployer.close().await;
        self.deployer.pool.kill();
        self.deployer.pool.drained().await;
        drop(self.deployer);
        // It holds the lock of the data directory, and tasks of the pool may still have a reference to it.
        let deadline = Instant::now() + SOON;
        while Arc::strong_count(&data) > 1 {
            assert!(Instant::now() < deadline, "the pool's tasks end");
            tokio::task::yield_now().await;
        }
        drop(data);
        Self {
            deployer: deployer(self.folder.path(), &self.stage),
            ..self
        }
    }

    fn data(&self) -> &DataDir {
        &self.deployer.builder.data
    }

    async fn create(&self, code: &str) {
        let config = test_record("f").config;
        let created =
            self.deployer
                .create(name(), config, Default::default(), package(code), false);
        created.await.unwrap();
        self.settled().await;
    }

    async fn update(&self, code: &str) -> FunctionRecord {
        let (name, wish) = (name(), CodeUpdate::default());
        let update = self.deployer.update_code(&name, None, package(code), wish);
        update.await.unwrap();
        self.settled().await.record.clone()
    }

    async fn configure(&self, change: impl FnOnce(&mut FunctionConfig)) -> FunctionRecord {
        let change = |config: &FunctionConfig| {
            let mut config = config.clone();
            change(&mut config);
            Ok::<_, ControlError>(config)
        };
        let name = name();
        let update = self.deployer.update_config(&name, None, change);
        update.await.unwrap();
        self.settled().await.record.clone()
    }

    async fn variable(&self, value: &str) -> FunctionRecord {
        let variables = [("SECRET".to_owned(), value.to_owned())].into();
        self.configure(|config| config.environment = Some(Environment(variables)))
            .await
    }

    /// The function when no deploy of it is under way.
    async fn settled(&self) -> Arc<Function> {
        let deadline = Instant::now() + SOON;
        loop {
            let function = self.deployer.catalog.get(&name()).unwrap();
            if function.pending().next().is_none() {
                return function;
            }
            assert!(Instant::now() < deadline, "the deploy ends");
            tokio::task::yield_now().await;
        }
    }

    /// How often init ran, and how many deploys used a snapshot that existed.
    fn made_and_reused(&self) -> (usize, u64) {
        let inits = self.stage.inits.lock().unwrap().len();
        (inits, self.deployer.metrics.reuses.get())
    }

    /// Waits until there are so many function snapshots and as many images of code.
    async fn files(&self, count: usize) {
        let places = [self.data().image("x"), self.data().function_snapshot("x")];
        let deadline = Instant::now() + SOON;
        loop {
            let in_folder = |path: &PathBuf| {
                let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
                entries.count()
            };
            let found: Vec<usize> = places.iter().map(in_folder).collect();
            if found == [count, count] {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?} instead of {count}");
            tokio::task::yield_now().await;
        }
    }
}

fn name() -> FunctionName {
    FunctionName::parse("f").unwrap()
}

/// The deploys of a controller with a data directory in `folder`.
pub(in crate::deploy) fn deployer(folder: &Path, stage: &Arc<Stage>) -> Deployer {
    let builder: Arc<Builder> = Arc::new(builder(folder, stage));
    let data = &builder.data;
    let (database, stored) = Database::open(&data.registry(), &data.key()).unwrap();
    sweep(data, &database, &stored).unwrap();
    let Contents { functions, layers } = stored;
    let functions = functions.into_iter().map(|f| revive(&builder, f)).collect();
    let catalog = Arc::new(Catalog::new(database, functions, layers));
    let rebuilder = Arc::new(Rebuilder::new(builder.clone(), catalog.clone()));
    let (metrics, logs): (_, LogStore) = (builder.metrics.clone(), builder.logs.clone());
    let shells = Arc::new(Shells::new(Arc::new(Doubles(stage.clone())), 0));
    let cpus = HostCpus::idle();
    let pool = Pool::new(POOL, shells, rebuilder, metrics.clone(), logs.clone(), cpus);
    Deployer::new(catalog, builder, pool, logs, metrics)
}

/// A ZIP archive with one file, which is not compressed.
fn package(content: &str) -> Bytes {
    let (file, content) = (b"bootstrap", content.as_bytes());
    let size = u32::try_from(content.len()).unwrap().to_le_bytes();
    // From the version that is needed on: no flags, no compression, no time.
    let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
    common.extend(crc32fast::hash(content).to_le_bytes());
    common.extend([size, size].concat());
    common.extend([9, 0, 0, 0]);
    let mut zip = b"PK\x03\x04".to_vec();
    zip.extend(&common);
    zip.extend(file);
    zip.extend(content);
    let directory = zip.len();
    zip.extend(b"PK\x01\x02\x14\x03");
    zip.extend(&common);
    zip.extend([0; 6]);
    zip.extend((0o100_755_u32 << 16).to_le_bytes());
    zip.extend([0; 4]);
    zip.extend(file);
    let length = zip.len() - directory;
    zip.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    for number in [length, directory] {
        zip.extend(u32::try_from(number).unwrap().to_le_bytes());
    }
    zip.extend([0, 0]);
    zip.into()
}

#[tokio::test]
async fn an_unchanged_redeploy_and_a_rollback_run_no_init_and_a_changed_environment_does() {
    let fixture = Fixture::new();
    fixture.create("one").await;
    assert_eq!(fixture.made_and_reused(), (1, 0));
    let first = fixture.settled().await.record.deployed.clone().unwrap();
    assert!(!first.snapshot_reused);
    let unchanged = fixture.update("one").await.deployed.unwrap();
    assert_eq!(fixture.made_and_reused(), (1, 1));
    assert_eq!(
        (unchanged.made, unchanged.snapshot_reused),
        (first.made, true)
    );
    fixture.files(1).await;
    assert!(
        !fixture
            .update("two")
            .await
            .deployed
            .unwrap()
            .snapshot_reused
    );
    assert_eq!(fixture.made_and_reused(), (2, 1));
    fixture.files(2).await;
    assert!(
        fixture
            .update("one")
            .await
            .deployed
            .unwrap()
            .snapshot_reused
    );
    assert!(
        fixture
            .update("two")
            .await
            .deployed
            .unwrap()
            .snapshot_reused
    );
    assert_eq!(fixture.made_and_reused(), (2, 3));
    // The guest sees neither of them.
    let changed = fixture.configure(|config| {
        config.timeout_seconds += 1;
        config.description = "changed".into();
    });
    assert_eq!(
        changed.await.deployed.unwrap().config.description,
        "changed"
    );
    assert_eq!(fixture.made_and_reused(), (2, 4));
    assert!(
        !fixture
            .variable("leaked")
            .await
            .deployed
            .unwrap()
            .snapshot_reused
    );
    assert_eq!(fixture.made_and_reused(), (3, 4));
    // Nothing with other variables is kept.
    fixture.files(1).await;
    fixture.variable("rotated").await;
    fixture.variable("leaked").await;
    assert_eq!(fixture.made_and_reused(), (5, 4));
    fixture.files(1).await;
}

#[tokio::test]
async fn a_published_version_and_latest_have_a_snapshot_each_and_are_deleted_apart() {
    let fixture = Fixture::new();
    fixture.create("one").await;
    let published = fixture.deployer.publish(&name(), Publish::default()).await;
    assert_eq!(published.unwrap().1, 1);
    let function = fixture.settled().await;
    // Its number is an environment variable.
    assert_eq!(fixture.made_and_reused(), (2, 0));
    let keys: std::collections::HashSet<String> = function
        .all_live()
        .map(|live| live.artefacts().unwrap().files.key.clone())
        .collect();
    assert_eq!(keys.len(), 2);
    drop(function);
    fixture.update("one").await;
    assert_eq!(fixture.made_and_reused(), (2, 1));
    fixture.deployer.delete_version(&name(), 1).await.unwrap();
    fixture.files(1).await;
    let live = fixture.settled().await.live.clone().unwrap();
    assert!(live.artefacts().unwrap().complete());
}

#[tokio::test]
async fn nothing_of_a_deleted_function_is_reused_by_another_of_its_name() {
    let fixture = Fixture::new();
    fixture.create("one").await;
    fixture.update("two").await;
    fixture.update("two").await;
    assert_eq!(fixture.made_and_reused(), (2, 1));
    fixture.deployer.delete(&name()).await.unwrap();
    fixture.files(0).await;
    fixture.create("two").await;
    fixture.update("one").await;
    assert_eq!(fixture.made_and_reused(), (4, 1));
}

#[tokio::test]
async fn a_reused_snapshot_serves_after_a_restart_and_kept_ones_are_gone() {
    let fixture = Fixture::new();
    fixture.create("one").await;
    fixture.update("two").await;
    let before = fixture.update("one").await;
    assert_eq!(fixture.made_and_reused(), (2, 1));
    let fixture = fixture.restarted().await;
    fixture.files(1).await;
    let function = fixture.settled().await;
    assert_eq!(function.record, before);
    let artefacts = function.live.as_ref().unwrap().artefacts().unwrap();
    artefacts.sealed().verify().unwrap();
    drop(artefacts);
    fixture.update("one").await;
    assert_eq!(fixture.made_and_reused(), (2, 1));
    fixture.update("two").await;
    assert_eq!(fixture.made_and_reused(), (3, 1));
}

#[tokio::test]
async fn a_snapshot_that_has_changed_or_could_not_be_restored_is_made_again() {
    let fixture = Fixture::new();
    fixture.create("one").await;
    let live = fixture.settled().await.live.clone().unwrap();
    std::fs::write(live.artefacts().unwrap().snapshot().memory, "changed").unwrap();
    drop(live);
    fixture.update("one").await;
    assert_eq!(fixture.made_and_reused(), (2, 0));
    let live = fixture.settled().await.live.clone().unwrap();
    live.artefacts().unwrap().mark_unusable();
    drop(live);
    fixture.update("one").await;
    assert_eq!(fixture.made_and_reused(), (3, 0));
    fixture.update("one").await;
    assert_eq!(fixture.made_and_reused(), (3, 1));
}

#[tokio::test]
async fn an_init_that_failed_is_run_again_and_what_still_serves_is_reused() {
    let fixture = Fixture::new();
    fixture.create("one").await;
    let works = fixture.settled().await.record.config.handler.clone();
    for run in [2, 3] {
        let failed = fixture
            .configure(|config| config.handler = "raise".into())
            .await;
        assert_eq!(failed.deployed.unwrap().config.handler, works);
        assert_eq!(fixture.made_and_reused(), (run, 0));
    }
    fixture.configure(|config| config.handler = works).await;
    assert_eq!(fixture.made_and_reused(), (3, 1));
    fixture.files(1).await;
}

#[tokio::test]
async fn a_function_whose_init_runs_in_each_instance_runs_it_at_each_deploy() {
    let fixture = Fixture::new();
    let gnutls = crate::function::shared_generator("GnuTLS", "/opt/lib/libgnutls.so.30");
    *fixture.stage.generators.lock().unwrap() = vec![gnutls];
    fixture.create("one").await;
    let again = fixture.update("one").await.deployed.unwrap();
    assert!(again.made.shared_generators.is_some() && !again.snapshot_reused);
    assert_eq!(fixture.made_and_reused(), (2, 0));
    fixture.files(1).await;
}

#[tokio::test]
async fn a_deploy_that_reuses_needs_no_sandbox() {
    let fixture = Fixture::new();
    fixture.create("one").await;
    let launched = fixture.stage.launched.load(Ordering::SeqCst);
    fixture.update("one").await;
    assert_eq!(fixture.stage.launched.load(Ordering::SeqCst), launched);
    let live = fixture.settled().await.live.clone().unwrap();
    assert_eq!((live.id, live.is_retired()), (VersionId::Latest, false));
}
