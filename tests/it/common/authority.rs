//! A certificate authority of one's own, for the tests of HTTPS.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// An authority whose certificate lies in a file.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) file: PathBuf,
}

impl Authority {
    /// A new one, with its certificate in `directory` under `name`.
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = directory.join(name);
        std::fs::write(&file, issuer.as_ref().pem()).unwrap();
        Self { issuer, file }
    }

    /// The files of a certificate for this machine and its key.
    pub(crate) fn pair(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        let files = (directory.join("pair.pem"), directory.join("pair.key"));
        std::fs::write(&files.0, made.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }
}
