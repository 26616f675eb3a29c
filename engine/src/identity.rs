//! Who a store belongs to, and the bootstrap file that lets it come to be exactly once.
//!
//! A node's id lives and dies with its data directory. [`prepare`] puts a bootstrap file into an empty one; the first
//! open moves what it says into the store and removes it. A directory with neither is refused: a node whose disk was
//! swapped for an empty one must not come back under its old id with nothing in its memory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mesh_ring::ids::{ClusterId, NodeId};
use mesh_ring::limits::PARTITIONS_MAX;

use crate::codec::{CodecError, put_bytes, take_text, take_u32};
use crate::founding::{FOUNDING_MEMBERS_MAX, Founding};
use bytes::Buf;

const FIRST_LINE: &str = "meshlog bootstrap 1";

/// Who a store belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The node's name, for people.
    pub name: String,
    /// Partitions of the cluster, fixed for its life: 1 to [`PARTITIONS_MAX`].
    pub partitions: u16,
}

impl Identity {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        out.extend_from_slice(&self.cluster.0);
        out.extend_from_slice(&self.node.0);
        out.extend_from_slice(&u32::from(self.partitions).to_be_bytes());
        put_bytes(&mut out, self.name.as_bytes());
        out
    }

    pub(crate) fn decode(mut from: &[u8]) -> Result<Identity, CodecError> {
        let from = &mut from;
        let (mut cluster, mut node) = ([0; 16], [0; 16]);
        from.try_copy_to_slice(&mut cluster)
            .map_err(|_| CodecError::Short)?;
        from.try_copy_to_slice(&mut node)
            .map_err(|_| CodecError::Short)?;
        let count = take_u32(from)?;
        let partitions = u16::try_from(count)
            .ok()
            .filter(|count| (1..=PARTITIONS_MAX).contains(count))
            .ok_or(CodecError::Unknown("partition count", count.into()))?;
        let name = take_text(from)?;
        if !from.is_empty() {
            return Err(CodecError::Long);
        }
        Ok(Identity {
            cluster: ClusterId(cluster),
            node: NodeId(node),
            name,
            partitions,
        })
    }
}

/// Where the bootstrap file of a data directory lies.
pub(crate) fn bootstrap_path(data: &Path) -> PathBuf {
    data.join("bootstrap")
}

/// What a bootstrap file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    pub(crate) identity: Identity,
    pub(crate) founding: Option<Founding>,
}

/// Makes `data` the data directory of a store that the next [`crate::Engine::open`] creates, of a node that joins a
/// cluster or is used by itself.
///
/// The directory is made if it is absent. After a crash the file is there whole or not at all.
///
/// # Errors
/// `AlreadyExists` where the directory holds a store or a bootstrap file, `InvalidInput` for a partition count outside
/// 1..=[`PARTITIONS_MAX`], or what the file system says.
pub fn prepare(data: &Path, identity: &Identity) -> io::Result<()> {
    write_bootstrap(data, identity, "")
}

/// As [`prepare`], for one of the nodes that found a cluster: [`crate::Engine::founding`] says so for ever.
///
/// # Errors
/// Also `InvalidInput` for members that cannot be written in lines and words, or too many of them.
pub fn prepare_with(data: &Path, identity: &Identity, founding: &Founding) -> io::Result<()> {
    let text = founding.encode().ok_or_else(|| {
        let message = format!(
            "a cluster is founded by 1 to {FOUNDING_MEMBERS_MAX} members, with addresses and zones without blanks \
             and names of one line"
        );
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    write_bootstrap(data, identity, &text)
}

fn write_bootstrap(data: &Path, identity: &Identity, founding: &str) -> io::Result<()> {
    if !(1..=PARTITIONS_MAX).contains(&identity.partitions) || identity.name.contains('\n') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "a cluster has 1 to {PARTITIONS_MAX} partitions, and a node's name is one line"
            ),
        ));
    }
    fs::create_dir_all(data)?;
    let path = bootstrap_path(data);
    if path.exists() || data.join("db").exists() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} already holds a store", data.display()),
        ));
    }
    let text = format!(
        "{FIRST_LINE}\ncluster {}\nnode {}\npartitions {}\nname {}\n{founding}",
        identity.cluster, identity.node, identity.partitions, identity.name
    );
    let scratch = data.join("bootstrap.new");
    let mut file = File::create(&scratch)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&scratch, &path)?;
    File::open(data)?.sync_all()
}

/// Reads the bootstrap file, if there is one.
pub(crate) fn read_bootstrap(data: &Path) -> io::Result<Option<Bootstrap>> {
    let path = bootstrap_path(data);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    parse_bootstrap(&text).map(Some).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is not a bootstrap file of this version", path.display()),
        )
    })
}

fn parse_bootstrap(text: &str) -> Option<Bootstrap> {
    let mut rest = text.strip_prefix(FIRST_LINE)?.strip_prefix('\n')?;
    let mut field = |name: &str| {
        let (line, after) = rest.split_once('\n')?;
        rest = after;
        line.strip_prefix(name)?
            .strip_prefix(' ')
            .map(str::to_owned)
    };
    let identity = Identity {
        cluster: field("cluster")?.parse().ok()?,
        node: field("node")?.parse().ok()?,
        partitions: field("partitions")?.parse().ok()?,
        name: field("name")?,
    };
    let founding = match rest {
        "" => None,
        lines => Some(Founding::decode(lines)?),
    };
    (1..=PARTITIONS_MAX)
        .contains(&identity.partitions)
        .then_some(Bootstrap { identity, founding })
}

/// Removes the bootstrap file once the store carries the identity itself.
pub(crate) fn consume_bootstrap(data: &Path) -> io::Result<()> {
    match fs::remove_file(bootstrap_path(data)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::open(data)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId([1; 16]),
            node: NodeId([2; 16]),
            name: "n1".into(),
            partitions: 64,
        }
    }

    #[test]
    fn identity_bytes() {
        let bytes = identity().encode();
        assert_eq!(bytes[..32], [[1; 16], [2; 16]].concat());
        assert_eq!(bytes[32..], [0, 0, 0, 64, 0, 0, 0, 2, b'n', b'1']);
        assert_eq!(Identity::decode(&bytes), Ok(identity()));
    }

    #[test]
    fn a_directory_is_prepared_once() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        prepare(&data, &identity()).unwrap();
        let alone = Bootstrap {
            identity: identity(),
            founding: None,
        };
        assert_eq!(read_bootstrap(&data).unwrap(), Some(alone));
        assert_eq!(
            prepare(&data, &identity()).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        consume_bootstrap(&data).unwrap();
        assert_eq!(read_bootstrap(&data).unwrap(), None);
    }

    #[test]
    fn a_founder_knows_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let member = crate::founding::FoundingMember {
            node: NodeId([2; 16]),
            name: "n 1".into(),
            address: "a:1".into(),
            zone: String::new(),
        };
        let founding = Founding {
            members: vec![member],
            replicas: 3,
        };
        prepare_with(&data, &identity(), &founding).unwrap();
        let read = read_bootstrap(&data).unwrap().unwrap();
        assert_eq!(read.founding, Some(founding.clone()));

        let torn = fs::read_to_string(bootstrap_path(&data)).unwrap();
        fs::write(bootstrap_path(&data), &torn[..torn.len() - 30]).unwrap();
        assert!(read_bootstrap(&data).is_err());
        let nobody = Founding {
            members: Vec::new(),
            ..founding
        };
        let other = dir.path().join("other");
        assert_eq!(
            prepare_with(&other, &identity(), &nobody)
                .unwrap_err()
                .kind(),
            io::ErrorKind::InvalidInput
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in ".*") {
            let _ = Identity::decode(&bytes);
            let _ = parse_bootstrap(&text);
        }
    }
}
