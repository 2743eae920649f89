package eval

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
)

// Kind is how a task's records become requests.
type Kind string

// The values are lm-eval's output types; text is not one of them.
const (
	MultipleChoice Kind = "multiple_choice"
	Cloze          Kind = "loglikelihood"
	Rolling        Kind = "loglikelihood_rolling"
	Text           Kind = "text"
)

// The metrics. All but the accuracies are better when lower.
const (
	Acc             = "acc"              // multiple choice, cloze
	AccNorm         = "acc_norm"         // multiple choice
	Perplexity      = "perplexity"       // cloze: of a continuation as a whole
	TokenPerplexity = "token_perplexity" // text
	WordPerplexity  = "word_perplexity"  // rolling, text
	BytePerplexity  = "byte_perplexity"  // rolling, text
	BitsPerByte     = "bits_per_byte"    // rolling, text
)

// HigherIsBetter reports whether a larger value of the metric is the better one.
func HigherIsBetter(metric string) bool { return metric == Acc || metric == AccNorm }

// Metrics returns the metrics that a kind of task has, in the order of tables.
func (k Kind) Metrics() []string {
	switch k {
	case MultipleChoice:
		return []string{Acc, AccNorm}
	case Cloze:
		return []string{Perplexity, Acc}
	case Rolling:
		return []string{WordPerplexity, BytePerplexity, BitsPerByte}
	case Text:
		return []string{TokenPerplexity, WordPerplexity, BytePerplexity, BitsPerByte}
	}
	return nil
}

// Task is a benchmark with its records, ready to be run.
type Task struct {
	Name    string
	Group   string // the group whose size-weighted mean this task enters, or ""
	Kind    Kind
	Metrics []string // some of Kind.Metrics; the first is the one that rates of answers refer to
	Version float64  // of the task's definition, as lm-eval numbers it
	Source  string   // the file that the records came from
	Answers []string // names of the answers by index where all records have the same, else nil
	Docs    []Doc
	Window  int // Text: tokens per window, at least 2
}

// Doc is one record of a task as the model is asked about it.
type Doc struct {
	ID     int             // index of the record in its file, from 0
	Line   int             // where its file holds it, from 1
	Record json.RawMessage // the record itself, for the log of samples
	Target string          // what lm-eval's log of samples has as target

	// Pairs are a context and continuation for each choice; one for Cloze; none for
	// Rolling and Text.
	Pairs []Pair
	Gold  int // index of the right choice
	// Lengths are the code points of each choice without its leading space: the divisor
	// of acc_norm.
	Lengths []int

	// Text is the document of Rolling and Text as the model reads it, Words and Bytes
	// the size of the original, by which its log-likelihood is divided.
	Text         string
	Words, Bytes int
}

// Pair is a context and its continuation as text.
type Pair struct {
	Context, Continuation string
}

// docFingerprint is the digest of everything about a record that results depend on.
func (t *Task) docFingerprint(d *Doc) string {
	h := sha256.New()
	// Encoding as JSON puts borders between the fields, so that no two records coincide.
	err := json.NewEncoder(h).Encode([]any{t.Window, d.ID, d.Pairs, d.Gold, d.Lengths, d.Text, d.Words, d.Bytes})
	if err != nil {
		panic(err) // strings and integers: cannot fail
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// fingerprint is the digest of the task over its selected records.
func (t *Task) fingerprint() string {
	h := sha256.New()
	fmt.Fprintln(h, t.Name, t.Kind)
	for i := range t.Docs {
		fmt.Fprintln(h, t.docFingerprint(&t.Docs[i]))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Fingerprint identifies the records that a run asks which is limited to the first limit
// ones, 0 to none: tasks of equal fingerprints ask the same. Of a text it is that of the
// whole, whose windows depend on the tokenizer.
func (t *Task) Fingerprint(limit int) string {
	picked := *t
	if limit > 0 && t.Kind != Text {
		picked.Docs = t.Docs[:min(limit, len(t.Docs))]
	}
	return picked.fingerprint()
}

// validate reports a task that Run could not work on: a mistake of the program that made
// it, said in a way that its author finds it.
func (t *Task) validate() error {
	if len(t.Docs) == 0 {
		return fmt.Errorf("task %s: %s holds no record", t.Name, t.Source)
	}
	for _, m := range t.Metrics {
		if !slices.Contains(t.Kind.Metrics(), m) {
			return fmt.Errorf("task %s: metric %q is not one of a %s task: %v", t.Name, m, t.Kind, t.Kind.Metrics())
		}
	}
	if len(t.Metrics) == 0 {
		return fmt.Errorf("task %s has no metric", t.Name)
	}
	if t.Kind == Text && t.Window < 2 {
		return fmt.Errorf("task %s: a window of %d tokens predicts nothing; it needs at least 2", t.Name, t.Window)
	}
	for i := range t.Docs {
		if err := t.validateDoc(&t.Docs[i]); err != nil {
			return t.docError(&t.Docs[i], err)
		}
	}
	return nil
}

func (t *Task) validateDoc(d *Doc) error {
	switch t.Kind {
	case MultipleChoice:
		if len(d.Pairs) < 2 {
			return fmt.Errorf("%d choices, where at least 2 are needed", len(d.Pairs))
		}
		if d.Gold < 0 || d.Gold >= len(d.Pairs) {
			return fmt.Errorf("the right answer is choice %d of %d", d.Gold, len(d.Pairs))
		}
		if len(d.Lengths) != len(d.Pairs) {
			return fmt.Errorf("%d lengths for %d choices", len(d.Lengths), len(d.Pairs))
		}
	case Cloze:
		if len(d.Pairs) != 1 {
			return fmt.Errorf("%d continuations, where 1 is needed", len(d.Pairs))
		}
	case Rolling, Text:
		if d.Words < 1 || d.Bytes < 1 {
			return fmt.Errorf("the document is empty")
		}
	default:
		return fmt.Errorf("unknown kind %q", t.Kind)
	}
	return nil
}

// docError says which record of which file an error is about.
func (t *Task) docError(d *Doc, err error) error {
	if d.Line > 0 {
		return fmt.Errorf("task %s, record %d (%s:%d): %w", t.Name, d.ID, t.Source, d.Line, err)
	}
	return fmt.Errorf("task %s, record %d (%s): %w", t.Name, d.ID, t.Source, err)
}
