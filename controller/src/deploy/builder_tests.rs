//! Tests of what a version starts from, with test doubles of sandbox and guest.

use std::fs;

use sha2::{Digest, Sha256};

use super::super::control::Deployer;
use super::*;
use crate::function::{FunctionRecord, Incarnation, VersionId, shared_generator};
use crate::hex::hex;
use crate::logs::{Filter, Kept, Query};
use crate::pool::double::{Doubles, Stage};
use crate::pool::test_pool;
use crate::registry::{Catalog, Database, test_record};

pub(in crate::deploy) const KEY: &str = "f-000000000000";
const KEPT: Kept = Kept {
    max_bytes: 1 << 20,
    max_age: Duration::from_secs(3600),
};

pub(in crate::deploy) struct Fixture {
    builder: Builder,
    stage: Arc<Stage>,
    record: FunctionRecord,
    incarnation: Incarnation,
    folder: tempfile::TempDir,
}

impl Fixture {
    pub(in crate::deploy) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        artefacts_of_host(folder.path());
        let stage = Stage::new();
        Self {
            builder: builder(folder.path(), &stage),
            stage,
            record: test_record("f"),
            incarnation: Incarnation::default(),
            folder,
        }
    }

    /// A deployer with this builder and an empty registry, a record for its first function, and the folder
    /// of all its files.
    pub(in crate::deploy) fn deployer(self) -> (Deployer, FunctionRecord, tempfile::TempDir) {
        let (data, logs) = (&self.builder.data, self.builder.logs.clone());
        let metrics = self.builder.metrics.clone();
        let (database, _) = Database::open(&data.registry(), &data.key()).unwrap();
        let catalog = Arc::new(Catalog::new(database, Vec::new(), Vec::new()));
        let pool = test_pool(metrics.clone(), logs.clone());
        let deployer = Deployer::new(catalog, Arc::new(self.builder), pool, logs, metrics);
        (deployer, self.record, self.folder)
    }

    /// The same after a restart.
    fn restarted(self) -> Self {
        // Dropped first, because it holds the lock of the data directory.
        drop(self.builder);
        Self {
            builder: builder(self.folder.path(), &self.stage),
            ..self
        }
    }

    /// Sets the generators that guests report.
    fn shares(&self, library: &str, file: &str) {
        *self.stage.generators.lock().unwrap() = vec![shared_generator(library, file)];
    }

    fn source(&self, version: VersionId) -> Source<'_> {
        Source {
            incarnation: &self.incarnation,
            name: &self.record.name,
            version,
            config: &self.record.config,
            code: &self.record.code,
            key: KEY,
            replaces: false,
        }
    }

    async fn build(&self, version: VersionId) -> Arc<Artefacts> {
        fs::write(self.builder.data.image(KEY), "code").unwrap();
        self.builder.build(self.source(version)).await.unwrap()
    }

    /// The function's log.
    async fn log(&self) -> String {
        let query = Query {
            filter: Filter::default(),
            after: None,
            before: None,
            limit: 100,
        };
        let page = self.builder.logs.read(&self.record.name, query).await;
        let records = page.unwrap().records.into_iter();
        records.map(|record| record.message + "\n").collect()
    }
}

/// Kernel, runtime image and sandbox program.
pub(in crate::deploy) fn artefacts_of_host(folder: &Path) {
    let cache = folder.join("cache");
    artefact(&cache.join("kernel"), "vmlinux");
    artefact(&cache.join("images"), "provided.erofs");
    fs::write(folder.join("sandbox"), "sandbox").unwrap();
}

/// A finished file of the artefact cache.
fn artefact(kind: &Path, file: &str) {
    let folder = kind.join("aa");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(file), file).unwrap();
    let sum = hex(&Sha256::digest(file));
    fs::write(folder.join(format!("{file}.sha256")), sum).unwrap();
    fs::write(kind.join(format!("current-{file}")), "aa").unwrap();
}

/// A builder with a data directory of its own in `folder`.
pub(in crate::deploy) fn builder(folder: &Path, stage: &Arc<Stage>) -> Builder {
    let data = Arc::new(DataDir::open(&folder.join("data")).unwrap());
    let metrics = Arc::new(Metrics::new(&[]).unwrap());
    let logs = LogStore::open(data.logs(), KEPT, metrics.logs_lost.clone()).unwrap();
    let host = Host::new(
        &folder.join("cache"),
        &folder.join("sandbox"),
        "software".into(),
        MailboxUse::On,
    );
    let times = Times {
        boot: Duration::from_secs(20),
        init: Duration::from_secs(20),
    };
    let arn_scope = ArnScope {
        region: "us-east-1".into(),
        account: "000000000000".into(),
    };
    let tools = BuilderTools {
        data: data.clone(),
        host: host.unwrap(),
        packages: Packages::in_folder(&data.packages()).unwrap(),
        shells: Arc::new(Shells::new(Arc::new(Doubles(stage.clone())), 0)),
        logs,
        metrics,
    };
    let settings = BuilderSettings {
        arn_scope,
        times,
        mailbox: MailboxUse::On,
        max_deploys: 1,
        kept_snapshot_bytes: u64::MAX,
    };
    Builder::new(tools, settings)
}

fn runtime_snapshot(artefacts: &Artefacts) -> PathBuf {
    match &artefacts.starts_from {
        StartsFrom::RuntimeSnapshot(init) => init.runtime_snapshot.clone(),
        StartsFrom::FunctionSnapshot => panic!("it has a snapshot of its own"),
    }
}

#[tokio::test]
async fn a_function_without_shared_generators_starts_from_a_function_snapshot() {
    let fixture = Fixture::new();
    let artefacts = fixture.build(VersionId::Latest).await;
    assert!(matches!(
        artefacts.starts_from,
        StartsFrom::FunctionSnapshot
    ));
    assert_eq!(artefacts.made().shared_generators, None);
    assert!(artefacts.files.folder.join("memory").is_file());
    let log = fixture.log().await;
    assert!(!log.contains("random generator"), "{log}");
}

#[tokio::test]
async fn a_function_with_a_shared_generator_has_no_function_snapshot_and_its_log_says_why() {
    let fixture = Fixture::new();
    fixture.shares("GnuTLS", "/opt/lib/libgnutls.so.30");
    let artefacts = fixture.build(VersionId::Latest).await;
    let runtime = runtime_snapshot(&artefacts);
    assert!(runtime.join("memory").is_file() && artefacts.complete());
    assert!(!artefacts.files.folder.join("memory").exists());
    assert!(artefacts.sealed().is_verified());
    let line = "Init runs in each instance: GnuTLS (/opt/lib/libgnutls.so.30) has a random generator \
                that can't be reseeded in a snapshot. SnapStart opts in to the snapshot.";
    let log = fixture.log().await;
    assert!(log.lines().any(|said| said == line), "{log}");
    // The runtime snapshot is shared: it stays when the version is deleted.
    let image = artefacts.files.code_image.clone();
    artefacts.disown();
    drop(artefacts);
    assert!(!image.exists() && runtime.join("memory").is_file());
}

#[tokio::test]
async fn a_function_whose_init_fails_serves_its_error_and_is_found_so_after_a_restart() {
    let mut fixture = Fixture::new();
    fixture.record.config.handler = "raise".into();
    let artefacts = fixture.build(VersionId::Latest).await;
    let failed = artefacts.failed_init().unwrap().clone();
    assert_eq!(failed.reason, "Runtime.ImportModuleError: no module x");
    assert_eq!(failed.code, "FunctionError.RuntimeInitError");
    assert!(artefacts.complete() && artefacts.sealed().is_verified());
    let made = serde_json::to_string(&artefacts.made()).unwrap();
    let made = serde_json::from_str(&made).unwrap();
    let found = fixture
        .builder
        .find(fixture.source(VersionId::Latest), &made);
    assert_eq!(found.unwrap().failed_init(), Some(&failed));
}

#[tokio::test]
async fn an_init_that_fails_replaces_nothing_that_works_and_no_snap_start() {
    let mut fixture = Fixture::new();
    fixture.record.config.handler = "raise".into();
    fixture.record.config.snap_start = "PublishedVersions".into();
    let sources = [
        Source {
            replaces: true,
            ..fixture.source(VersionId::Latest)
        },
        fixture.source(VersionId::Number(1)),
    ];
    for source in sources {
        fs::write(fixture.builder.data.image(KEY), "code").unwrap();
        let error = fixture.builder.build(source).await.unwrap_err();
        assert!(matches!(error, DeployError::Init { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_artefacts_of_a_version_are_found_again_after_a_restart() {
    let fixture = Fixture::new();
    fixture.shares("GnuTLS", "/opt/lib/libgnutls.so.30");
    let made = fixture.build(VersionId::Latest).await.made();
    let kept = serde_json::to_string(&made).unwrap();
    let fixture = fixture.restarted();
    let made: Made = serde_json::from_str(&kept).unwrap();
    let source = fixture.source(VersionId::Latest);
    let found = fixture.builder.find(source, &made).unwrap();
    assert_eq!(found.made(), made);
    found.sealed().verify().unwrap();
    // Without the runtime snapshot, or with another one, the version has to be rebuilt.
    let runtime = runtime_snapshot(&found);
    fs::write(runtime.join("memory"), "another").unwrap();
    assert!(found.sealed().verify().is_err());
    fs::remove_dir_all(&runtime).unwrap();
    assert!(fixture.builder.find(source, &made).is_none());
    let again = fixture.build(VersionId::Latest).await;
    assert_eq!(again.made(), made);
}

/// The second attempt failed: no folder can be renamed to one that has files.
#[tokio::test]
async fn a_deploy_that_was_interrupted_after_its_snapshot_is_repeated_under_its_key() {
    let fixture = Fixture::new();
    let left = fixture.build(VersionId::Latest).await.files.folder.clone();
    assert!(left.join("seal").is_file());
    let again = fixture.build(VersionId::Latest).await;
    assert!(again.files.folder == left && again.sealed().is_verified());
}

#[tokio::test]
async fn with_snapstart_there_is_a_function_snapshot_and_the_log_says_to_reseed() {
    let mut fixture = Fixture::new();
    fixture.shares("GnuTLS", "/opt/lib/libgnutls.so.30");
    fixture.record.config.snap_start = "PublishedVersions".into();
    let artefacts = fixture.build(VersionId::Number(1)).await;
    assert!(matches!(
        artefacts.starts_from,
        StartsFrom::FunctionSnapshot
    ));
    assert!(artefacts.files.folder.join("memory").is_file());
    let log = fixture.log().await;
    assert!(log.contains("because SnapStart is on: GnuTLS"), "{log}");
    assert!(log.contains("Reseed it in an after-restore hook."), "{log}");
    // SnapStart is for published versions.
    fs::remove_dir_all(&artefacts.files.folder).unwrap();
    let latest = fixture.build(VersionId::Latest).await;
    assert!(latest.made().shared_generators.is_some());
}

#[tokio::test]
async fn names_of_libraries_that_a_guest_reports_can_not_forge_log_lines() {
    let fixture = Fixture::new();
    fixture.shares("x\nREPORT RequestId: other", "/opt/\u{1b}[2J");
    let artefacts = fixture.build(VersionId::Latest).await;
    let log = fixture.log().await;
    assert!(
        !log.contains("\nREPORT") && !log.contains('\u{1b}'),
        "{log}"
    );
    let kept = serde_json::to_string(&artefacts.made()).unwrap();
    assert!(!kept.contains("\\n"), "{kept}");
}

#[test]
fn a_version_of_an_older_registry_starts_from_its_function_snapshot() {
    let made: Made = serde_json::from_str(r#"{"key":"k","fingerprint":"f"}"#).unwrap();
    assert_eq!(made.shared_generators, None);
    let kept = serde_json::to_string(&made).unwrap();
    assert_eq!(kept, r#"{"key":"k","fingerprint":"f"}"#);
}
