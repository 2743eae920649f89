// Package tasks holds the benchmarks that pruning studies report, each in a file of its
// own, and reads their data.
//
// A Definition says how one record becomes an eval.Doc: a context and its possible
// continuations, or a document. The texts are those of lm-eval 0.4.13, to the last space.
// All lists the definitions; there is no registry that packages add to.
//
// Data sets circulate in two schemas, the one in which their authors published them and the
// one of Hugging Face's data-set library. Both are accepted, told apart by the fields of
// each record, from JSON Lines or Parquet files, told apart by their first bytes. Data says
// where the files are. Nothing is downloaded.
//
// Users add tasks of their own in a YAML file (LoadFile), and measure the perplexity of any
// text (TextTask).
package tasks
