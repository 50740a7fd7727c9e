-- How far did the videos come, and what did they cost?
SELECT status, count(*) AS videos, sum(n_frames) AS frames, round(sum(duration_s) / 3600, 3) AS hours,
       sum(n_tracks) AS tracks, sum(n_low_score_tracks) AS low_score_tracks,
       sum(n_dropped_births) AS dropped_births,
       round(1000 * sum(sampled_frames) / nullif(sum(infer_ms), 0), 1) AS frames_per_s_in_model
FROM videos GROUP BY status ORDER BY status
