package tensor

func decodeF32(dst []float32, src []byte)      { decodeF32Go(dst, src) }
func decodeF16(dst []float32, src []byte)      { decodeF16Go(dst, src) }
func decodeBF16(dst []float32, src []byte)     { decodeBF16Go(dst, src) }
func encodeF32(dst []byte, src []float32)      { encodeF32Go(dst, src) }
func encodeF16(dst []byte, src []float32) int  { return encodeF16Go(dst, src) }
func encodeBF16(dst []byte, src []float32) int { return encodeBF16Go(dst, src) }
