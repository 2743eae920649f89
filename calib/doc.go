// Package calib runs a model over text and adds up what its MLPs do there: the
// statistics (score.Stats) from which activation-aware scores and refits are made. It also
// refits a pruned model on what reaches each layer in it, layer after layer (Refit), or on what
// it predicts, all layers together (RefitPredictions).
//
// # From text to rows
//
// The text is that of files and directories or, where none are named, a small one of many
// kinds that the program carries (BuiltIn). A model can write its own (WriteTexts).
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
// # One layer at a time
//
// The model runs as engine.Layerwise: one layer over all rows, then the next, with the
// residual streams of all tokens kept in between. So the text is gone over once, whatever
// the size of the model, and weights and sums of one layer are in memory.
//
// # Memory and time
//
// For L layers of hidden size h and width d, T tokens: a layer's sums take 12 d(d+3)
// bytes, its weights in float32 4 (h(2q + 2k) + 3hd) for q values of queries and k of keys
// a token, and what is computed of a batch about 20 (h + d) kB; the streams take 4hT
// bytes. Where all that is more than Options.Memory, the streams are in two files beside
// the output, of 4hT bytes each, which are written once and read once a layer. The file of
// statistics takes L(12 d(d+3) + 48) bytes. Time is that of one forward pass without the
// head, and d^2 multiply-adds a token and layer.
//
// # Refits
//
// Refit runs the dense model and the one that a plan makes of it side by side. In each
// layer that is pruned it takes the dense stream over the layer, runs the dense MLP and the
// neurons that stay on the pruned stream, adds up products of activations with one another
// and with the two parts of their target (the dense MLP's output; the difference of the
// streams), solves down_proj, and takes the pruned stream over the refitted layer: five
// runs of a layer's attention and MLP a token, where Collect has one. Each round on gate
// and up adds about 21 multiply-adds for each of the h k weights and token. For k neurons
// that stay, the sums take 12 k(k+3) + 48 hk bytes, and rounds 16 k(2k+1) more; the streams
// of two models and, with rounds, three vectors more a token are kept, in memory or in
// files as above.
//
// RefitPredictions fits the MLPs of all layers together to what the dense model predicts. A step
// takes its share of the text through both models, keeps the pruned one's streams before each
// layer, and comes back with gradients, from whose sums each layer's step is solved before
// the layer below is loaded. See StepsMemory.
//
// # Interruption
//
// Between batches of rows, each minute or more often, and when its context ends, Collect
// saves in hidden files beside its output the sums of the layer that is being run, and the
// residual streams. The same call goes on from there, after a kill too, and ends with the
// same bits. Refit does so between layers, and WriteTexts after each text.
package calib
