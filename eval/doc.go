// Package eval measures what a language model can still do: it turns records into
// requests for log-likelihoods, has a model answer them, and makes of the answers the
// metrics that pruning studies report, each beside what guessing would have reached.
//
// The numbers are those of EleutherAI's lm-evaluation-harness 0.4.13 (lm-eval), zero-shot,
// without description or chat template. Four kinds of task exist:
//
//   - multiple choice: each choice is a continuation of a context; the model's answer is
//     the choice with the largest log-likelihood (acc), or the largest log-likelihood per
//     character (acc_norm);
//   - cloze: one continuation, the last word of a text; its perplexity, and how often
//     greedy decoding would have found it;
//   - rolling: a whole document, each token predicted once in windows that fill the
//     model's context; perplexity per word and per byte;
//   - text: any text in windows of a fixed length; perplexity per token.
//
// The way from a text to token ids has rules of its own (EncodePair, RollingWindows), and
// they move results more than one expects: Llama-3.2-1B's perplexity on wikitext is 11.57
// without the beginning-of-sequence token and 11.96 with it. So every Result says which
// rule it was made with.
//
// Run is the whole way: select records, encode, look up what a ledger already holds, have
// the rest scored, aggregate. Its Result can be written in lm-eval's layout (Write), read
// back (Load) and set beside others (Compare) with tests for paired data.
//
// Tasks are values made by package eval/tasks; the model is an LM, implemented by package
// lm. This package depends on neither.
package eval
