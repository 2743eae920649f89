// Package parquetrows reads the rows of Parquet files as the objects that they would be in
// JSON.
package parquetrows

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// Magic begins every Parquet file.
const Magic = "PAR1"

// Each gives f the rows of a file one after the other, the first as number 1. Damage is an
// error that names the file by path and the row; an error of f ends the reading and is
// returned as it is.
func Each(path string, data []byte, f func(row int, fields map[string]any) error) (err error) {
	row := 0
	// The library checks much, but not all, of what a damaged file may say.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: row %d: the Parquet file is damaged: %v", path, row, p)
		}
	}()
	file, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, group := range file.Metadata().RowGroups {
		// The library asks for ever more memory, until there is none, where such a page is damaged.
		if slices.ContainsFunc(group.Columns, func(c format.ColumnChunk) bool { return c.MetaData.Codec == format.Lz4Raw }) {
			return fmt.Errorf("%s: is compressed with LZ4, which is not read; write it with snappy or zstd", path)
		}
	}
	rows := parquet.NewReader(file)
	defer rows.Close()
	for {
		row++
		fields := map[string]any{}
		if err := rows.Read(&fields); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: row %d: %w", path, row, err)
		}
		if err := f(row, fields); err != nil {
			return err
		}
	}
}
