package eval

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// samplesFile is lm-eval's log of the records of a task, a line each. Log-likelihoods are
// strings there, as in lm-eval's files: a list of a number and a truth value has no type
// to the data-set library that reads them.
func samplesFile(t *TaskResult, tokens bool) ([]byte, error) {
	if t.task == nil {
		return nil, fmt.Errorf("the result was loaded from a file and holds no answers of task %s", t.Name)
	}
	docs := map[int]*Doc{}
	for i := range t.task.Docs {
		docs[t.task.Docs[i].ID] = &t.task.Docs[i]
	}
	var b bytes.Buffer
	for i := range t.Samples {
		s := &t.Samples[i]
		d := docs[s.DocID]
		if t.Kind == Text {
			d = &Doc{Record: windowRecord(t.Source, s.DocID)}
		}
		o, err := sampleObject(t, d, s, tokens)
		if err != nil {
			return nil, err
		}
		line, err := marshal(o, "")
		if err != nil {
			return nil, err
		}
		b.Write(line)
	}
	return b.Bytes(), nil
}

// windowRecord stands for the record of a text, whose records are windows.
func windowRecord(source string, window int) json.RawMessage {
	data, err := marshal(object{{"file", source}, {"window", window}}, "")
	if err != nil {
		panic(err) // a string and an integer: cannot fail
	}
	return bytes.TrimSpace(data)
}

func sampleObject(t *TaskResult, d *Doc, s *Sample, tokens bool) (object, error) {
	var indented bytes.Buffer
	if err := json.Indent(&indented, d.Record, "", "  "); err != nil {
		return nil, err
	}
	names := []string{}
	scores := object{}
	for i, m := range t.Metrics {
		names = append(names, m.Name)
		scores = append(scores, member{m.Name, sampleScore(t.Kind, s, i)})
	}
	arguments, resps, filtered := sampleResponses(t.Kind, d, s)
	o := object{
		{"doc_id", s.DocID}, {"doc", d.Record}, {"target", d.Target},
		{"arguments", arguments}, {"resps", resps}, {"filtered_resps", filtered},
		{"filter", "none"}, {"metrics", names},
		{"doc_hash", digest(indented.String())}, {"prompt_hash", digest(prompt(d))}, {"target_hash", digest(d.Target)},
	}
	if tokens {
		contexts, continuations := make([][]int32, len(s.Answers)), make([][]int32, len(s.Answers))
		for i, a := range s.Answers {
			contexts[i], continuations[i] = a.Context, a.Continuation
		}
		o = append(o, member{"context_ids", contexts}, member{"continuation_ids", continuations})
	}
	return append(o, scores...), nil
}

// sampleScore is what a sample has under the name of a metric: a rolling document's
// log-likelihood stands beside what it is divided by.
func sampleScore(kind Kind, s *Sample, i int) any {
	if kind == Rolling || kind == Text {
		return []any{jsonFloat(s.Scores[i], nil), jsonFloat(s.Weights[i], nil)}
	}
	return jsonFloat(s.Scores[i], nil)
}

// sampleResponses are the requests as text and the model's answers, each with one filter
// that changes nothing. In resps each answer is in a list, as requests may be repeated.
func sampleResponses(kind Kind, d *Doc, s *Sample) (arguments object, resps, filtered []any) {
	if kind == Rolling || kind == Text {
		ll := 0.0
		for _, a := range s.Answers {
			ll += a.LogLikelihood
		}
		text := pyFloat(ll)
		return object{{"gen_args_0", object{{"arg_0", d.Text}}}}, []any{[]string{text}}, []any{text}
	}
	for i, a := range s.Answers {
		arguments = append(arguments, member{
			fmt.Sprintf("gen_args_%d", i),
			object{{"arg_0", d.Pairs[i].Context}, {"arg_1", d.Pairs[i].Continuation}},
		})
		answer := []string{pyFloat(a.LogLikelihood), pyBool(a.Greedy)}
		resps, filtered = append(resps, [][]string{answer}), append(filtered, answer)
	}
	return arguments, resps, filtered
}

func prompt(d *Doc) string {
	if len(d.Pairs) == 0 {
		return d.Text
	}
	return d.Pairs[0].Context
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
