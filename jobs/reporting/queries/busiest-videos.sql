-- Which videos show the most objects in one frame, and when?
WITH crowds AS (
    SELECT plan_id, video_id, frame_idx, any_value(time_s) AS time_s, count(*) AS objects
    FROM masks GROUP BY plan_id, video_id, frame_idx
)
SELECT video_id, objects AS objects_at_once, frame_idx AS at_frame, time_s AS at_s,
       round(avg(objects) OVER (PARTITION BY plan_id, video_id), 1) AS mean_objects
FROM crowds
QUALIFY row_number() OVER (PARTITION BY plan_id, video_id ORDER BY objects DESC, frame_idx) = 1
ORDER BY objects_at_once DESC, mean_objects DESC, video_id LIMIT 20
