// Package card writes the model card of a pruned model, the README.md that the Hugging
// Face hub shows, out of what was measured.
//
// A card makes claims about a model, so all of it comes from files that know: the plan
// beside the weights says what was removed and how, the checkpoint what is there now,
// results of coppice eval (or records of a study) what the model can still do. Results
// name the weights that they are of by a digest, and those of other weights are refused;
// a value that was not measured is left out, and none is copied from another card. What
// the tables mean is found by rule (findings.go): where a benchmark is no better than
// chance, where one answer always given would do better, what the tests call lost or
// held.
//
// Build reads and decides; Card.Markdown writes. The front matter is that of
// huggingface.co/docs/hub/model-cards.
package card
