package study

// bytesPerToken is a rough figure for English text and the vocabularies of today.
const bytesPerToken = 4
