package tasks

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/eval"
)

// PIQA: which of two ways reaches a goal in the physical world (Bisk et al. 2019,
// arXiv:1911.11641).
func piqa() Definition {
	return Definition{
		Name: "piqa", Summary: "PIQA: which of two ways reaches a goal",
		Files: []string{"piqa/valid.jsonl", "piqa/dev.jsonl"},
		Kind:  eval.MultipleChoice, Metrics: []string{eval.Acc, eval.AccNorm}, Version: 1,
		read: readPIQA,
		doc:  piqaDoc,
	}
}

func piqaDoc(r record) (eval.Doc, error) {
	fields, err := r.texts("goal", "sol1", "sol2")
	if err != nil {
		return eval.Doc{}, err
	}
	gold, err := r.index("label")
	if err != nil {
		return eval.Doc{}, err
	}
	return multipleChoice("Question: "+fields[0]+"\nAnswer:", fields[1:], gold, strconv.Itoa(gold))
}

// readPIQA reads the records, and where they have no label, as in the authors' files, takes
// the labels from the file that stands beside: valid.jsonl has its in valid-labels.lst, one
// a line.
func readPIQA(path string) ([]record, error) {
	records, err := readRecords(path)
	if err != nil || records[0].has("label") {
		return records, err
	}
	labelPath := strings.TrimSuffix(path, ".jsonl") + "-labels.lst"
	data, err := os.ReadFile(labelPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: the records have no field \"label\" and %s is not there", path, labelPath)
	} else if err != nil {
		return nil, err
	}
	labels := lines(data)
	if len(labels) != len(records) {
		return nil, fmt.Errorf("%s: %d labels for the %d records of %s", labelPath, len(labels), len(records), path)
	}
	for i, label := range labels {
		label = bytes.TrimSpace(label)
		if _, ok := asIndex(string(label)); !ok {
			return nil, fmt.Errorf("%s:%d: %q is not the index of an answer", labelPath, i+1, label)
		}
		records[i].fields["label"] = label
	}
	return records, nil
}
