//! What is compared: command lines that both tools understand.

/// What is made anew, not timed, before each run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fresh {
    Nothing,
    /// The target `out` is not there.
    Gone,
    /// An empty qcow2 image `out` of 1 GiB.
    Empty,
    /// An empty qcow2 image `out` over `data.raw`.
    Overlay,
}

/// One command line.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) name: String,
    pub(super) fresh: Fresh,
    /// Words after the tool's name; files are in the stage's folder.
    pub(super) words: Vec<String>,
    /// The ratio to qemu-img's time that is wanted at most.
    pub(super) goal: f64,
}

/// Never slower.
const AS_FAST: f64 = 1.0;
/// Twice as fast.
const TWICE: f64 = 0.5;
/// A stride that visits the 4 KiB blocks of 256 MiB in no order that a disk would know: an odd number of blocks.
const STRIDE: &str = "40525824";

fn cell(name: impl Into<String>, fresh: Fresh, goal: f64, words: &str) -> Cell {
    Cell { name: name.into(), fresh, words: words.split(' ').map(str::to_owned).collect(), goal }
}

/// Reads and writes in place: format, order, depth, direction, cache.
fn requests() -> Vec<Cell> {
    let mut cells = Vec::new();
    for format in ["raw", "qcow2"] {
        for (cache, cached) in [("writeback", "cached"), ("none", "direct")] {
            for (direction, flag, file) in [("read", "", "data"), ("write", "-w ", "write")] {
                for (order, step) in [("sequential", "4096"), ("random", STRIDE)] {
                    for depth in [1, 32, 64] {
                        let count = if cache == "none" { 4000 } else { 40_000 };
                        cells.push(cell(
                            format!("{format} {direction} {order} {cached} depth {depth}"),
                            Fresh::Nothing,
                            AS_FAST,
                            &format!(
                                "bench {flag}-c {count} -d {depth} -S {step} -t {cache} -i io_uring -f {format} \
                                 {file}.{format}"
                            ),
                        ));
                    }
                }
            }
        }
    }
    cells
}

/// All cells, in the order of the report.
pub(super) fn all() -> Vec<Cell> {
    let mut cells = requests();
    let more = [
        ("qcow2 read cold depth 1", Fresh::Nothing, AS_FAST, "bench -c 30000 -d 1 -S 16M -f qcow2 scattered.qcow2"),
        ("qcow2 read cold depth 64", Fresh::Nothing, AS_FAST, "bench -c 30000 -d 64 -S 16M -f qcow2 scattered.qcow2"),
        ("qcow2 write cold depth 64", Fresh::Nothing, AS_FAST, "bench -w -c 30000 -S 16M -f qcow2 scattered.qcow2"),
        ("qcow2 first write, cluster each", Fresh::Empty, TWICE, "bench -w -c 12000 -S 65536 -f qcow2 out"),
        ("qcow2 first write, sequential", Fresh::Empty, TWICE, "bench -w -c 60000 -f qcow2 out"),
        ("qcow2 first write over backing file", Fresh::Overlay, TWICE, "bench -w -c 3500 -S 65536 -f qcow2 out"),
        ("qcow2 read through to backing file", Fresh::Overlay, AS_FAST, "bench -c 40000 -f qcow2 out"),
        ("convert raw to qcow2", Fresh::Gone, AS_FAST, "convert -f raw -O qcow2 data.raw out"),
        ("convert qcow2 to raw", Fresh::Gone, AS_FAST, "convert -f qcow2 -O raw data.qcow2 out"),
        ("convert to compressed", Fresh::Gone, TWICE, "convert -c -f raw -O qcow2 data.raw out"),
        ("convert compressed to raw", Fresh::Gone, AS_FAST, "convert -f qcow2 -O raw packed.qcow2 out"),
        ("convert sparse 1 TiB", Fresh::Gone, AS_FAST, "convert -f qcow2 -O qcow2 sparse.qcow2 out"),
        ("check scattered 1 TiB", Fresh::Nothing, TWICE, "check -f qcow2 scattered.qcow2"),
        ("map scattered 1 TiB", Fresh::Nothing, TWICE, "map -f qcow2 scattered.qcow2"),
        ("map scattered 1 TiB as JSON", Fresh::Nothing, TWICE, "map --output json -f qcow2 scattered.qcow2"),
        ("measure scattered 1 TiB", Fresh::Nothing, AS_FAST, "measure -f qcow2 -O qcow2 scattered.qcow2"),
        ("measure raw", Fresh::Nothing, AS_FAST, "measure -f raw -O qcow2 data.raw"),
    ];
    cells.extend(more.map(|(name, fresh, goal, words)| cell(name, fresh, goal, words)));
    cells
}

#[cfg(test)]
mod tests {
    use super::all;

    #[test]
    fn no_two_cells_have_one_name() {
        let mut names: Vec<_> = all().into_iter().map(|cell| cell.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();

        assert_eq!(names.len(), count);
    }
}
