//! The layouts, told apart by what stands in a file.

/// How a file lays out its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[{"image", "caption": […]}]`.
    CaptionList,
    /// `{"images": […], "annotations": […]}` with a caption in every annotation.
    Coco,
    /// `{"dataset", "images": [{"split", "filename", "sentences": […]}]}`.
    Karpathy,
    /// `{"data_subtype", "questions": […]}`.
    VqaQuestions,
    /// `{"data_subtype", "annotations": […]}` with ten answers in every annotation.
    VqaAnnotations,
    /// `{question id: {"question", "imageId"}}`.
    Gqa,
    /// `[{"question_id", "question", "image"}]`.
    QuestionList,
}
