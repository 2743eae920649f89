// Package calib runs a model over text and adds up what its MLPs do there: the
// statistics (score.Stats) from which activation-aware scores and refits are made.
//
// # From text to rows
//
// The text is that of files and directories or, where none are named, a small one of many
// kinds that the program carries (BuiltIn).
//
// Documents are shuffled by a seed, encoded as a text by itself is, and cut into rows of
// at most Context tokens until enough tokens are there: one after another (packed), or
// each in rows of its own (padded; what padding would fill up is never computed, so it
// cannot count). Each tenth document is held back. Text is never used twice: where it
// runs out, there are fewer tokens, and the caller is told.
//
// The first token of a row, of a document and each BOS are first tokens, the others of a
// held-back document are held, and all others are the body; see score.LayerStats.
//
// # Sums
//
// The activations of up to 512 tokens are multiplied in float32, by the engine's kernels,
// and the products are added to sums in float64; first tokens are few and multiplied in
// float64. Each element is added to in the order of the rows, whatever the number of
// threads, so the same text gives the same bits.
//
// # Memory and time
//
// The sums of a layer of d neurons take 12 d(d+3) bytes. As many layers as fit into
// Options.Memory are observed in one pass over the text, so a model of L layers takes
// P = ceil(L / floor(Memory / 12 d^2)) passes; a pass ends at its last layer, so on
// average a little more than half of the model is run. At d = 8192 a layer takes 805 MB:
// two layers a pass in 2 GiB, at d = 1536 28 MB: all 30 layers of SmolLM2-135M in one.
// The engine's weights come on top. Time is P/2 + 1/2 forward passes and d^2 fused
// multiply-adds a token and layer.
//
// # Interruption
//
// Between batches of rows, each minute or more often, and when its context ends, Collect
// saves the sums so far in a hidden file beside its output, at once or not at all. The same call goes on
// from there, after a kill too, and ends with the same bits.
package calib
