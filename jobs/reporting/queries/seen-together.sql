-- Which classes are in the same frame, and how often?
WITH present AS (
    SELECT plan_id, video_id, frame_idx, category, count(*) AS objects
    FROM masks
    GROUP BY plan_id, video_id, frame_idx, category
)
SELECT a.category, b.category AS with_category, count(*) AS frames, count(DISTINCT a.video_id) AS videos
FROM present a JOIN present b USING (plan_id, video_id, frame_idx)
WHERE a.category < b.category OR (a.category = b.category AND a.objects > 1)
GROUP BY a.category, b.category ORDER BY frames DESC, a.category, b.category
