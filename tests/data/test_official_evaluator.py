"""Our segmentation scores are those of Cityscapes' own evaluator, run on files in its format."""

import cv2
import numpy as np
from helpers import official_evaluator

from mtlflax import metrics
from mtlflax.data import labels

H, W = 64, 128
FRAMES = [("frankfurt", 0, 294), ("frankfurt", 1, 60), ("lindau", 2, 19), ("munster", 173, 7)]
# Truck and bus occur nowhere, train only in predictions.
ABSENT, INVENTED = (14, 15), 16


def scene(rng):
    """Blobs of every label that is drawn, the ignored ones included: label ids and instance ids."""
    ids = np.full((H, W), 7, np.uint8)
    ids[: H // 3] = 23
    instances = ids.astype(np.uint16)
    avoided = labels.LABEL_ID_LUT[[*ABSENT, INVENTED]]
    choices = [label for label in labels.LABELS if label.id >= 0 and label.id not in avoided]
    for number in range(80):
        label = choices[rng.integers(len(choices))]
        y, x = rng.integers(H), rng.integers(W)
        blob = np.s_[y : y + rng.integers(2, 20), x : x + rng.integers(2, 30)]
        ids[blob] = label.id
        instances[blob] = label.id * 1000 + number if label.has_instances else label.id
    return ids, instances


def predict(ids, rng):
    """Truth and prediction as train ids: shifted, noisy, and never without a class."""
    truth = labels.TRAIN_ID_LUT[ids]
    allowed = np.setdiff1d(np.arange(19), ABSENT)
    prediction = np.roll(truth, (1, 3), axis=(0, 1))
    wild = (rng.random((H, W)) < 0.2) | (prediction == labels.IGNORE)
    prediction[wild] = rng.choice(allowed, (H, W))[wild]
    return truth, prediction


def test_scores_equal_the_official_evaluators(tmp_path):
    rng = np.random.default_rng(0)
    totals = metrics.Totals()
    for city, sequence, frame in FRAMES:
        ids, instances = scene(rng)
        truth, prediction = predict(ids, rng)
        totals.add(metrics.confusion_matrix(truth, prediction, 19))

        name = f"{city}_{sequence:06}_{frame:06}"
        folder, results = tmp_path / "gtFine" / "val" / city, tmp_path / "results" / city
        for path in (folder, results):
            path.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / f"{name}_gtFine_labelIds.png"), ids)
        assert cv2.imwrite(str(folder / f"{name}_gtFine_instanceIds.png"), instances)
        assert cv2.imwrite(str(results / f"{name}_pred.png"), labels.LABEL_ID_LUT[prediction])
    result = official_evaluator.evaluate(tmp_path, tmp_path / "results", tmp_path)

    confusion = totals.sums
    assert confusion.sum() < len(FRAMES) * H * W  # some pixels are ignored
    assert np.sum(result["confMatrix"]) == len(FRAMES) * H * W  # all frames were read

    scores = metrics.iou(confusion)
    expected = [result["classScores"][name] for name in labels.TRAIN_NAMES]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)
    assert np.flatnonzero(np.isnan(scores)).tolist() == list(ABSENT)
    assert scores[INVENTED] == 0
    assert abs(metrics.miou(confusion) - result["averageScoreClasses"]) <= 1e-12

    categories = metrics.category_iou(confusion, labels.TRAIN_TO_CATEGORY)
    expected = [result["categoryScores"][name] for name in labels.CATEGORY_NAMES]
    np.testing.assert_allclose(categories, expected, rtol=0, atol=1e-12)
    average = metrics.mean_score(categories)
    assert abs(average - result["averageScoreCategories"]) <= 1e-12
