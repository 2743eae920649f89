package tasks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/internal/parquetrows"
)

// LAMBADA: the last word of a passage that people guess from the passage but not from its
// last sentence (Paperno et al. 2016, arXiv:1606.06031). The standard text is tokenised and
// in lower case; OpenAI's is the same passages as they were printed.
func lambadaOpenAI() Definition {
	return lambada("lambada_openai", "LAMBADA, OpenAI's text: the last word of a passage", "lambada_openai/lambada_test.jsonl")
}

func lambadaStandard() Definition {
	d := lambada("lambada_standard", "LAMBADA, standard text: the last word of a passage", "lambada_standard/lambada_test_plain_text.txt")
	d.read = readTextRecords
	return d
}

func lambada(name, summary, file string) Definition {
	return Definition{
		Name: name, Summary: summary, Files: []string{file},
		Kind: eval.Cloze, Metrics: []string{eval.Perplexity, eval.Acc}, Version: 1,
		doc: lambadaDoc,
	}
}

// lambadaDoc cuts the text at its last single space. The word takes the space with it; a
// text without a space is a word after no context.
func lambadaDoc(r record) (eval.Doc, error) {
	text, err := r.text("text")
	if err != nil {
		return eval.Doc{}, err
	}
	cut := max(strings.LastIndexByte(text, ' '), 0)
	word := " " + strings.TrimPrefix(text[cut:], " ")
	return eval.Doc{
		Pairs:  []eval.Pair{{Context: text[:cut], Continuation: word}},
		Target: word,
	}, nil
}

// readTextRecords reads what readRecords does, or plain text with a record a line.
func readTextRecords(path string) ([]record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if isStructured(data) {
		return parseRecords(path, data)
	}
	var records []record
	for number, line := range lines(data) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		r := record{line: number + 1}
		switch {
		case !utf8.Valid(line):
			return nil, r.errorf(path, fmt.Errorf("the record is not valid UTF-8"))
		case len(line) == 0:
			return nil, r.errorf(path, fmt.Errorf("the record is empty"))
		}
		if r, err = textRecord("text", string(line), number+1); err != nil {
			return nil, r.errorf(path, err)
		}
		records = append(records, r)
	}
	return records, nil
}

// isStructured reports whether a file that may be plain text is Parquet or JSON Lines.
func isStructured(data []byte) bool {
	if bytes.HasPrefix(data, []byte(parquetrows.Magic)) {
		return true
	}
	first := bytes.TrimSpace(lines(data)[0])
	return bytes.HasPrefix(first, []byte("{")) && json.Valid(first)
}

// textRecord makes a record with one field.
func textRecord(field, text string, line int) (record, error) {
	raw, err := marshal(map[string]string{field: text})
	if err != nil {
		return record{line: line}, err
	}
	r, err := parseRecord(raw)
	r.line = line
	return r, err
}
