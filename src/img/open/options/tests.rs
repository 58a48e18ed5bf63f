use std::os::unix::fs::MetadataExt;

use rhea_block::graph::CacheMode;
use tempfile::TempDir;

use super::*;
use crate::img::open::{Image, open};

/// A file full of bytes, its name as options, and as JSON.
fn file() -> (TempDir, [(String, bool); 2]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    let path = path.display();
    let names = [
        (format!("driver=raw,file.filename={path}"), true),
        (format!(r#"json:{{"driver":"raw","file":{{"filename":"{path}"}}}}"#), false),
    ];
    (folder, names)
}

fn opened(name: &str, want: Want<'_>) -> Image {
    open(name, want).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn cache_mode_of_the_command_line_counts_where_the_options_have_none() {
    let (_folder, names) = file();
    for (name, image_opts) in names {
        let want = Want { image_opts, cache: CacheMode::None, ..Want::default() };
        let direct = |image: &Image| image.graph.nodes().iter().map(|n| n.info(true).cache.direct).collect::<Vec<_>>();
        assert_eq!(direct(&opened(&name, want)), [true, true], "{name}");
        if image_opts {
            assert_eq!(direct(&opened(&format!("{name},cache.direct=off"), want)), [false, false]);
            let guessed = name.strip_prefix("driver=raw,").unwrap();
            assert_eq!(direct(&opened(guessed, want)), [true, true], "{guessed}");
        }
    }
}

#[test]
fn discards_free_space_unless_the_options_say_otherwise() {
    for n in 0..2 {
        let (folder, names) = file();
        let (name, image_opts) = &names[n];
        let want = Want { image_opts: *image_opts, ..Want::default() }.writing();
        let held = || folder.path().join("disk").metadata().unwrap().blocks();
        if *image_opts {
            let image = opened(&format!("{name},discard=ignore"), want);
            image.layer().discard(0, 1 << 20).unwrap();
            assert_ne!(held(), 0);
        }
        opened(name, want).layer().discard(0, 1 << 20).unwrap();
        assert_eq!(held(), 0, "{name}");
    }
}

#[test]
fn way_of_moving_bytes_is_for_the_files_of_the_image_itself() {
    let options = "driver=qcow2,file.driver=blkdebug,file.image.filename=a,backing.file.filename=b";
    let mut object = keyval::nested(keyval::pairs(options).unwrap()).unwrap();
    fill_in(&mut object, Want { aio: Some(spec::Aio::Threads), ..Want::default() });
    assert_eq!(object["file"]["image"]["driver"], "file");
    assert_eq!(object["file"]["image"]["aio"], "threads");
    assert_eq!(object["backing"]["file"].get("aio"), None);
}
